"""A rank's first minute: its environment and device, the other ranks, and what all of them agree on."""
