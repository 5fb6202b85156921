"""What rank 0 was predicted to take, beside what it took. Only `train` imports it, on rank 0 only.

The two can be compared if the run is on the GPU that was predicted. On a GPU, `memory_bytes` is the peak of torch's
allocator; communicators allocate for themselves, so the prediction leaves them out as well. On a CPU neither number can
be compared: the prediction is for a GPU, and the process's memory holds the interpreter and its libraries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

import attrs
import torch

from planner import Plan, compile_spec
from planner.cost.memory.peaks import rank_memory
from planner.cost.predict import predict
from planner.cost.timing.hardware import DEFAULT, known_hardware, load_hardware
from planner.cost.work.ops import GIB
from planner.cost.work.settings import EXECUTOR
from planner.cost.work.settings import Settings as Software
from planner.limits.layers import Layers

from ..start import device
from ..start.layer_backend import choose_layers

if TYPE_CHECKING:
    from .trainer import Step, TrainSettings  # imports megatron-core


@attrs.frozen(kw_only=True)
class Predicted:
    """The prediction of a step of rank 0.

    Attributes:
        gpu: name of the assumed hardware; "" if nothing could be predicted.
        seconds: duration of a step; None if nothing could be predicted.
        num_bytes: peak memory without communicators; None if nothing could be predicted.
        timed_as: dtype of the predicted times, if it is not the run's.
        reason: why nothing could be predicted.
    """

    gpu: str = ""
    seconds: float | None = None
    num_bytes: int | None = None
    timed_as: str = ""
    reason: str = ""

    def metrics(self) -> dict[str, float | str | None]:
        """The keys that each line of `--metrics` gains; null if nothing could be predicted."""
        numbers = {"predicted_seconds": self.seconds, "predicted_bytes": self.num_bytes}
        return {**numbers, "predicted_gpu": self.gpu or None}


def predicted_of(plan: Plan, settings: TrainSettings, asked: str | None) -> Predicted:
    """The prediction for rank 0 of a run, or the reason why there is none: a run never ends for want of a prediction.

    Args:
        plan: the plan that runs.
        settings: how it is trained.
        asked: the GPU that the spec names, if any.
    """
    try:
        hardware = load_hardware(asked or gpu_of(device_name()))
        run, assumed = _as_run(plan, settings), software()
        found = predict(run, hardware, assumed)
        num_bytes = round(rank_memory(run, 0, assumed).total)
    except Exception as error:  # whatever it is, the other ranks must not wait for this one in vain
        return Predicted(reason=" ".join(str(error).split()) or type(error).__name__)
    if found.deadlock or not found.has_models:
        return Predicted(reason=found.deadlock or f"no sizes of {', '.join(found.unsized)}")
    timed_as = "" if settings.dtype == "bf16" else "bf16"
    return Predicted(gpu=hardware.name, seconds=found.step_seconds, num_bytes=num_bytes, timed_as=timed_as)


def _as_run(plan: Plan, settings: TrainSettings) -> Plan:
    """The plan with the settings that the command line changed."""
    names = ("dtype", "optimizer", "lr", "distributed_optimizer")
    training = attrs.evolve(plan.training, **{name: getattr(settings, name) for name in names})
    if training == plan.training:
        return plan
    return compile_spec(attrs.evolve(plan.to_spec(), training=training), world_size=plan.world_size)


def software() -> Software:
    """What this executor's models do with the layers that are available on this machine."""
    if choose_layers() is Layers.TRANSFORMER_ENGINE:
        return EXECUTOR
    return attrs.evolve(EXECUTOR, flash_attention=False, num_workspaces=1)


def gpu_of(runs_on: str) -> str:
    """The known GPU that this process runs on, or else the default."""
    return next(iter(_known_in(runs_on)), DEFAULT)


def is_same_gpu(gpu: str, runs_on: str) -> bool:
    """Whether a prediction for `gpu` holds for the device. A user's hardware file may add to the GPU's name."""
    known = _known_in(gpu)
    return bool(known & _known_in(runs_on)) if known else gpu.lower() in runs_on.lower()


def _known_in(text: str) -> set[str]:
    """The known GPUs that a text names as whole words: a GH200 is not an H200."""
    return {name for name in known_hardware() if name in re.split("[^a-z0-9]", text.lower())}


def device_name() -> str:
    """The name of the device that this process runs on."""
    return torch.cuda.get_device_name() if device.ON_GPU else "cpu"


def summary(predicted: Predicted, steps: Sequence[Step], runs_on: str) -> list[str]:
    """Two lines: predicted and measured. The first step warms up, so it counts only if it is the only one."""
    if not steps:
        return []
    seconds = median(step.seconds for step in steps[1:] or steps)
    memory = max(step.memory_bytes for step in steps)
    measured = f"measured   {_line(seconds, memory)} of rank 0 on {runs_on}"
    if predicted.seconds is None or predicted.num_bytes is None:
        return [f"predicted  nothing: {predicted.reason}", measured]
    timed = f", timed as {predicted.timed_as}" if predicted.timed_as else ""
    return [
        f"predicted  {_line(predicted.seconds, predicted.num_bytes)} of rank 0 on {predicted.gpu}{timed}",
        measured + ("" if is_same_gpu(predicted.gpu, runs_on) else ", not comparable"),
    ]


def _line(seconds: float, num_bytes: float) -> str:
    size = f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.1f} MiB"
    return f"{1e3 * seconds:.1f} ms a step, {size}"
