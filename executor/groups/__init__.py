"""From the plan to process groups, grids and collections of megatron-core."""
