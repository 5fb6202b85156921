"""What to change in a spec: memory that does not fit, and what is slow and not wrong. What is advised was tried."""
