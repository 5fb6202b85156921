"""Independent proof of a plan, by brute force: no arithmetic is shared with the rooms that it checks."""

from .brute_force import VerificationError, verify

__all__ = ["VerificationError", "verify"]
