"""Measured runs: files of them, predictions beside them, and constants fitted to them."""
