"""Bytes on a rank, the fullest ranks, and what would make a plan fit."""
