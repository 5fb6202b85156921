"""Bytes on a rank, the fullest rank of each module, and what would make a plan fit."""
