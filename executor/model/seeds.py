"""Which seed starts which random stream: a pure function of the run's seed and of a rank's coords.

Three streams per module of a rank, as megatron-core's layers ask for them:
- `default`: replicated activations. Equal on the tp ranks of a lane's stage, apart between lanes, stages, parts of a
  sequence, and modules.
- `tensor`: activations divided over tp. Apart between tp ranks too.
- `expert`: inside experts. Apart between expert ranks too.

megatron-core adds small numbers to one seed (100 * pp, tp ...), so that sums may meet, and its tracker then refuses
to start (ep coord 17 and tp coord 6: 1024 + 1700 = 2718 + 6); here each seed is a hash of all that tells a stream
from another.
"""

from __future__ import annotations

import hashlib

import attrs

from planner import Axis, RankView

# What a stream depends on, beside the lane.
_STREAMS = {
    "default": (Axis.PP,),
    "tensor": (Axis.PP, Axis.TP),
    "expert": (Axis.PP, Axis.EP, Axis.EXPT_TP),
}
_LANE = {"default": (Axis.DP, Axis.CP), "tensor": (Axis.DP, Axis.CP), "expert": (Axis.TP, Axis.DP, Axis.CP)}


@attrs.frozen
class Seeds:
    """The seeds of one module on one rank."""

    default: int
    tensor: int
    expert: int

    @classmethod
    def of(cls, view: RankView, module: str, seed: int, *, lanes_differ: bool) -> Seeds:
        """A pure function of the run's seed and of where the rank stands in the module.

        With `lanes_differ`, streams for activations; else streams for weights, alike on all replicas of a weight.
        """
        found = {}
        for stream, axes in _STREAMS.items():
            chosen = (*axes, *_LANE[stream]) if lanes_differ else axes
            coords = ",".join(f"{axis.value}{view.coords[module][axis]}" for axis in chosen)
            digest = hashlib.sha256(f"{seed}:{module}:{stream}:{coords}".encode()).digest()
            found[stream] = int.from_bytes(digest[:7], "big")
        return cls(**found)
