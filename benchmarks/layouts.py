"""The layouts that the benchmarks measure: one shape of model at any number of ranks."""

from math import lcm

from planner import Batch, Cluster, Module, Output, Parallel, Spec


def three_modules(world_size: int) -> Spec:
    """Language on three quarters of the ranks, images and audio on an eighth each; tp 8 from 1,024 ranks on."""
    quarter = world_size // 4
    tp, pp = (8, 4) if world_size >= 1024 else (2, 1)
    encoder_tp = 2 if world_size >= 1024 else 1
    lanes = 3 * quarter // (tp * pp), quarter // 2 // encoder_tp, quarter // 2
    samples = 2 * lcm(*lanes)
    return Spec(
        cluster=Cluster(nodes=world_size // 8, gpus_per_node=8),
        batch=Batch(global_size=4 * samples, micro_size=samples, seq_length=8192),
        modules={
            "language": Module(parallel=Parallel(tp=tp, pp=pp, dp=lanes[0])),
            "images": Module(parallel=Parallel(tp=encoder_tp, dp=lanes[1]), output=Output(tensor_dims=2)),
            "audio": Module(parallel=Parallel(dp=lanes[2]), output=Output(tensor_dims=2)),
        },
    )
