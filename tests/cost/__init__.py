"""Laws of the cost model: counts, memory, time, the simulation, and predictions beside measured runs."""
