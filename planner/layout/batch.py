"""The batch contract: how the samples of a step are divided.

`micro_size` is the microbatch of the whole model. A step has global_size / micro_size microbatches, and each lane of a
module holds micro_size / dp consecutive samples of every microbatch. Both peers' conventions follow: Megatron-Bridge
counts micro_size itself, Megatron-LM counts samples per language lane.
"""

from __future__ import annotations

from functools import cached_property

import attrs

from ..base.axes import Axis
from ..base.frozen import frozen
from ..base.frozenmap import FrozenMap
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY
from .ir import Grid


@frozen
class BatchContract:
    """Which lane holds which samples.

    Attributes:
        global_size: samples per optimizer step.
        micro_size: samples per microbatch of the whole model.
        seq_length: tokens per sample in the language module.
        grids: the grid of each module.
    """

    global_size: int
    micro_size: int
    seq_length: int
    grids: FrozenMap[str, Grid] = attrs.field(repr=False)

    @property
    def num_microbatches(self) -> int:
        """Microbatches per optimizer step."""
        return self.global_size // self.micro_size

    @cached_property
    def samples_per_lane(self) -> FrozenMap[str, int]:
        """For each module, the number of samples of a microbatch that each of its lanes holds."""
        return FrozenMap((name, self.micro_size // grid.num_lanes) for name, grid in self.grids.items())

    def slice(self, module: str, rank: int) -> slice:
        """The samples of a microbatch that the lane of `rank` in `module` holds.

        Raises:
            KeyError: no such module.
            ValueError: the rank is not in the module.
        """
        grid = self.grids[module]
        if rank not in grid:
            raise ValueError(f"rank {rank} is not in {module}, which has ranks {grid.rank_offset}-{grid.end - 1}")
        return self.lane_slice(grid, grid.coord(rank, Axis.DP))

    def lane_slice(self, grid: Grid, lane: int) -> slice:  # type: ignore[valid-type]  # the name is the method's here
        """The samples of a microbatch that a lane of a module's grid holds."""
        size = self.micro_size // grid.num_lanes
        return slice(lane * size, (lane + 1) * size)

    @property
    def megatron_bridge_micro_batch_size(self) -> int:
        """`micro_batch_size` as Megatron-Bridge means it: the whole model's."""
        return self.micro_size

    @property
    def megatron_lm_micro_batch_size(self) -> int:
        """`micro_batch_size` as Megatron-LM means it: per lane of language."""
        return self.samples_per_lane[MIMO_LANGUAGE_MODULE_KEY]
