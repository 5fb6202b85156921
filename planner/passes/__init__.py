"""From spec to plan: each pass is a pure function that adds its faults, and compile.py alone knows their order."""
