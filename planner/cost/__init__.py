"""What a plan will take: memory, time, traffic. Pure Python."""
