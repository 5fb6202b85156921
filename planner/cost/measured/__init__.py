"""Runs that were measured: files of them, predictions beside them, constants fitted to them."""
