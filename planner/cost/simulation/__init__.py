"""Which rank computes what and when: the schedule of a step, and its simulation."""
