"""Plans compared with the real megatron-core, class by class. A package, so that its megatron.py hides nothing."""
