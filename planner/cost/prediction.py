"""What a prediction says: one frozen value, from which texts, pages and JSON are made."""

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
    """What one rank of a stage sends over its group of a kind, in a whole step.

    Attributes:
        kind: the kind of the group; `pp` for the hops between stages.
        collectives: number of collectives.
        num_bytes: bytes that leave the rank.
        link: the link that limits a ring over the group: `nvlink` or `network`.
        seconds: seconds that the collectives take.
    """

    kind: str
    collectives: int
    num_bytes: float
    link: str
    seconds: float


@frozen(kw_only=True)
class StageCost:
    """What one stage of one module costs each of its ranks.

    Attributes:
        module: the module.
        stage: the stage's index in it, from 0.
        first_rank: the lowest rank of the stage.
        num_ranks: number of its ranks.
        num_layers: transformer layers of the stage.
        parameters: parameters that a rank holds.
        memory: bytes that the stage needs on a rank.
        forward_seconds, backward_seconds: seconds of one pass over one microbatch of a lane.
        update_seconds: seconds of the update, once per step.
        forward_flops, backward_flops: FLOPs of one pass over one microbatch of a lane.
        traffic: what a rank sends in a whole step, by kind of group.
    """

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
        hardware: the GPU that is assumed.
        settings: what is assumed of the training software.
        gpu_given: whether the user named the GPU; otherwise it is the default.
        nodes_given: whether the spec says how many GPUs a node has; otherwise it is the default.
        dtype: type of parameters and activations; the times of kernels are those of bf16 in any case.
        unsized: the modules without a model, which cost nothing.
        stages: the cost of every stage of every module, in plan order.
        bridges: the cost of every edge.
        peaks: for each module, the rank that needs most memory.
        remedies: what would make the plan fit, one line each; empty if it fits.
        timeline: the simulated pipeline; None if the schedule stops for good.
        deadlock: which unit waits for which if the schedule stops for good; otherwise empty.
        pipeline_seconds: seconds from the first forward to the last backward pass; infinite if the schedule stops.
        update_seconds: seconds of the update: gradients are reduced, the optimizer steps, weights are gathered.
        model_flops: FLOPs that the mathematics of a step needs, whatever the layout.
        tokens: tokens of the language model per step.
        num_microbatches: microbatches per step.
        world_size: number of ranks.
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
        """Whether every module has a model, so that the numbers are those of a whole step."""
        return not self.unsized

    @property
    def step_seconds(self) -> float:
        """Seconds of a step: the pipeline, then the update."""
        return self.pipeline_seconds + self.update_seconds

    @property
    def bubble(self) -> float:
        """The share of the pipeline's time in which the average rank computes nothing; 1 if it never ends."""
        if not self.pipeline_seconds:
            return 0.0
        busy = self.timeline.gpu_seconds if self.timeline else 0.0
        return max(0.0, 1 - busy / (self.world_size * self.pipeline_seconds))  # rounding may make it negative

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
        """Tokens of the language model per second, on all GPUs together."""
        return self.tokens / self.step_seconds if self.step_seconds else 0.0

    @property
    def tflops_per_gpu(self) -> float:
        """Model TFLOPs per second and GPU."""
        return self.model_flops / self.step_seconds / self.world_size / 1e12 if self.step_seconds else 0.0

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization: the model FLOPs per second over the peak of the data sheet."""
        return self.tflops_per_gpu / self.hardware.peak_tflops.value

    @property
    def memory_limit(self) -> float:
        """Bytes of a GPU's memory."""
        return self.hardware.memory_bytes

    @property
    def fits(self) -> bool:
        """Whether every rank fits into its GPU's memory."""
        return all(self.spare(peak) >= 0 for peak in self.peaks)

    @property
    def worst(self) -> RankMemory:
        """The rank that needs most memory."""
        return max(self.peaks, key=lambda peak: peak.total)

    def spare(self, peak: RankMemory) -> float:
        """Bytes of the GPU's memory that a rank leaves free; negative if it does not fit."""
        return self.memory_limit - peak.total
