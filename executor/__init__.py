"""Turns a plan into process groups, a MimoModel and training steps, under torchrun.

    torchrun --standalone --nproc-per-node=8 -m executor check spec.yaml
    torchrun --standalone --nproc-per-node=8 -m executor train spec.yaml --steps 20

Nothing happens here that is not in the plan. Without a GPU, megatron-core's import must be prepared: each room that
imports megatron-core imports `executor.start.device` first, in its `__init__`.
"""
