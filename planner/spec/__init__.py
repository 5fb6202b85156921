"""What a user writes: its classes, the types of their fields, and the ways to read it."""
