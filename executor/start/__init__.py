"""A rank's first minute: its environment and device, the other ranks, and what all of them agree on."""

from datetime import timedelta

DEFAULT_TIMEOUT = timedelta(seconds=120)  # how long a rank waits for another
