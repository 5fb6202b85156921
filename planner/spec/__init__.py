"""What a user writes: its classes, the rules of its fields, and the ways to read it."""
