"""Turns a plan into process groups, a MimoModel and training steps, under torchrun.

    torchrun --standalone --nproc-per-node=8 -m executor check spec.yaml
    torchrun --standalone --nproc-per-node=8 -m executor train spec.yaml --steps 20

Nothing happens here that is not in the plan. Without a GPU, the import of megatron-core has to be prepared, so each
folder that imports megatron-core first imports `executor.start.device`, in its `__init__`.
"""
