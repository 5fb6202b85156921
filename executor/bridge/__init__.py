"""Tensors from module to module, by the plan's messages."""
