"""Laws that compare plans with the real megatron-core, class by class. Without it, all of them are visible skips."""
