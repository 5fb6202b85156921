"""One file per command of `mimo`."""
