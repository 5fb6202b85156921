"""Which seed starts which random stream: a pure function of the run's seed and of a rank's coords.

Each module of a rank has three streams, which megatron-core's layers ask for:
- `default` is for replicated activations. It is equal on the tp ranks of a lane's stage, and differs between lanes,
  stages, parts of a sequence, and modules.
- `tensor` is for activations that are divided over tp. It also differs between tp ranks.
- `expert` is for what happens inside experts. It also differs between expert ranks.

megatron-core instead adds small numbers to one seed (100 * pp, tp ...). Two such sums can be equal, and its tracker
then refuses to start (ep coord 17 and tp coord 6: 1024 + 1700 = 2718 + 6). Here each seed is a hash of everything that
tells one stream from another.
"""

from __future__ import annotations

import hashlib

import attrs

from planner import Axis, RankView

# The axes that a stream depends on, apart from those that tell lanes and parts of a sequence from one another.
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
        """The seeds of `module` on the rank of `view`.

        Args:
            seed: the run's seed.
            lanes_differ: true for streams of activations; false for streams of weights, which are alike on all replicas
                of a weight.
        """
        found = {}
        for stream, axes in _STREAMS.items():
            chosen = (*axes, *_LANE[stream]) if lanes_differ else axes
            coords = ",".join(f"{axis.value}{view.coords[module][axis]}" for axis in chosen)
            digest = hashlib.sha256(f"{seed}:{module}:{stream}:{coords}".encode()).digest()
            found[stream] = int.from_bytes(digest[:7], "big")
        return cls(**found)
