"""What a step of a plan will take: time, memory and traffic. Pure Python."""
