"""What a prediction says: one frozen value, which texts, pages and JSON are made of."""

from __future__ import annotations

from ..base.frozen import frozen
from .memory.memory import Memory
from .memory.peaks import RankMemory
from .simulation.timeline import Timeline
from .simulation.words import critical_path, longest_waits
from .timing.bridges import BridgeCost
from .timing.hardware import Hardware
from .work.parameters import Parameters
from .work.settings import Settings


@frozen(kw_only=True)
class StageTraffic:
    """What one rank of a stage sends over its groups of a kind, in a whole step.

    Attributes:
        kind: the groups' kind; `pp` for the hops between stages.
        collectives: how often anything is sent.
        num_bytes: that leave the rank.
        link: `nvlink` or `network`, what a ring over the group is limited by.
        seconds: that they take.
    """

    kind: str
    collectives: int
    num_bytes: float
    link: str
    seconds: float


@frozen(kw_only=True)
class StageCost:
    """One stage of one module, as each of its ranks has it. Passes are of one microbatch of its lane, the update and
    traffic of a whole step."""

    module: str
    stage: int
    first_rank: int
    num_ranks: int
    num_layers: int
    parameters: Parameters
    memory: Memory
    forward_seconds: float
    backward_seconds: float
    update_seconds: float
    forward_flops: float
    backward_flops: float
    traffic: tuple[StageTraffic, ...]


@frozen(kw_only=True)
class Prediction:
    """What a step costs.

    Attributes:
        hardware: the GPU assumed.
        settings: what is assumed of the training software.
        gpu_given: whether the user named it; else it is the default.
        nodes_given: whether the spec says how many GPUs a node has; else it is the default.
        dtype: of parameters and activations; times of kernels are those of bf16 all the same.
        unsized: modules without a model; they cost nothing.
        stages: every stage of every module, in plan order.
        bridges: every edge.
        peaks: per module, its rank that needs most memory.
        remedies: where something does not fit, what would make it fit.
        timeline: the simulated pipeline; None where the schedule stops for good.
        deadlock: then, who waits for whom; else empty.
        pipeline_seconds: from the first forward to the last backward pass; infinite where the schedule stops.
        update_seconds: reduction of gradients, optimizer, gathering of weights.
        model_flops: that a step's mathematics needs, whatever the layout: nothing computed twice.
        tokens: of language per step.
        num_microbatches: per step.
        world_size: ranks.
    """

    hardware: Hardware
    settings: Settings
    gpu_given: bool
    nodes_given: bool
    dtype: str
    unsized: tuple[str, ...]
    stages: tuple[StageCost, ...]
    bridges: tuple[BridgeCost, ...]
    peaks: tuple[RankMemory, ...]
    remedies: tuple[str, ...]
    timeline: Timeline | None
    deadlock: str
    pipeline_seconds: float
    update_seconds: float
    model_flops: float
    tokens: int
    num_microbatches: int
    world_size: int

    @property
    def has_models(self) -> bool:
        """Whether every module says its sizes, so that its numbers are those of a whole step."""
        return not self.unsized

    @property
    def step_seconds(self) -> float:
        return self.pipeline_seconds + self.update_seconds

    @property
    def bubble(self) -> float:
        """Share of the pipeline's time in which the average rank computes nothing: all of it where it never ends."""
        if not self.pipeline_seconds:
            return 0.0
        busy = self.timeline.gpu_seconds if self.timeline else 0.0
        return max(0.0, 1 - busy / (self.world_size * self.pipeline_seconds))  # sums of many times are rounded

    @property
    def critical_path(self) -> tuple[str, ...]:
        """What the pipeline's time consists of, in words, the largest share first."""
        return tuple(critical_path(self.timeline)) if self.timeline else ()

    @property
    def waits(self) -> tuple[str, ...]:
        """The longest waits, in words: `images stage 0 waits 31 ms for gradients of language stage 0`."""
        return tuple(longest_waits(self.timeline)) if self.timeline else ()

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step_seconds if self.step_seconds else 0.0

    @property
    def tflops_per_gpu(self) -> float:
        return self.model_flops / self.step_seconds / self.world_size / 1e12 if self.step_seconds else 0.0

    @property
    def mfu(self) -> float:
        """Model FLOPs over what the data sheet promises."""
        return self.tflops_per_gpu / self.hardware.peak_tflops.value

    @property
    def memory_limit(self) -> float:
        """Bytes of the GPU."""
        return self.hardware.memory_bytes

    @property
    def fits(self) -> bool:
        return all(self.spare(peak) >= 0 for peak in self.peaks)

    @property
    def worst(self) -> RankMemory:
        """The rank of all that needs most memory."""
        return max(self.peaks, key=lambda peak: peak.total)

    def spare(self, peak: RankMemory) -> float:
        """Bytes of the GPU that a rank leaves."""
        return self.memory_limit - peak.total
