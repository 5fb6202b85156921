"""What a step has to do, counted and not timed: matrix products, bytes, collectives, parameters."""
