"""What a layout is: ranks, groups, bridges, stages and samples, computed from coords when asked for."""
