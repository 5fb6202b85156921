"""Turns a plan into process groups, a MimoModel and training steps, under torchrun.

    torchrun --standalone --nproc-per-node=8 -m executor check spec.yaml
    torchrun --standalone --nproc-per-node=8 -m executor train spec.yaml --steps 20

Nothing happens here that is not in the plan. `device` is imported first because where there is no GPU it must
prepare megatron-core's import.
"""

from .start import device as _device  # noqa: F401
