"""Whether the copies of a parameter are equal: over lanes, over tp where it is not divided, and where it is tied.

Copies that drift apart train a model that nobody has: each lane's gradients belong to other weights, and the loss looks
well. Fingerprints of all copies are compared over the plan's own groups, in one reduction for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel

from planner import MIMO_LANGUAGE_MODULE_KEY, GroupKind

from ..groups.groups import ProcessGroups
from ..model.model import modules_of
from ..start.meet import ranks_text
from .world import differing

Reading = Callable[[torch.nn.Parameter], torch.Tensor | None]


@attrs.frozen(eq=False)
class Copies:
    """Parameters of which every member of a group has the same copy.

    Attributes:
        module: the module's name.
        why: what makes them copies, for messages.
        parameters: by name, in the same order on all members.
    """

    module: str
    why: str
    group: dist.ProcessGroup
    parameters: dict[str, torch.nn.Parameter]


def copies_of(model: MimoModel, groups: ProcessGroups) -> Iterator[Copies]:
    """Every set of copies that this rank has a part in, in the same order on all members of each group."""
    for name, module in modules_of(model):
        named = {key.replace("module.", ""): one for key, one in module.named_parameters()}
        dense = {key: one for key, one in named.items() if getattr(one, "allreduce", True)}
        expert = {key: one for key, one in named.items() if key not in dense}
        whole = {key: one for key, one in dense.items() if not getattr(one, "tensor_model_parallel", False)}
        for kind, why, held in (
            (GroupKind.DP_CP, "lanes", dense),
            (GroupKind.EXPT_DP, "copies of the same experts", expert),
            (GroupKind.TP, "tp ranks", whole),
        ):
            group = groups.get(name, kind)
            if held and group is not None and group.size() > 1:
                yield Copies(name, why, group, held)
        if name == MIMO_LANGUAGE_MODULE_KEY:
            yield from _tied(module, groups)


def _tied(module: Any, groups: ProcessGroups) -> Iterator[Copies]:
    """The embedding of the first stage and its copy on the last one."""
    inner = module
    while not hasattr(inner, "share_embeddings_and_output_weights") and hasattr(inner, "module"):
        inner = inner.module
    group = groups.get(MIMO_LANGUAGE_MODULE_KEY, GroupKind.EMBD)
    if getattr(inner, "share_embeddings_and_output_weights", False) and group is not None and group.size() > 1:
        weight = inner.shared_embedding_or_output_weight()
        if weight is not None:
            yield Copies(MIMO_LANGUAGE_MODULE_KEY, "tied copies", group, {"embedding.word_embeddings.weight": weight})


def copy_faults(copies: list[Copies], what: str, read: Reading) -> Iterator[str]:
    """A line for each tensor whose copies differ. Collective over the groups of the copies.

    Args:
        what: what is compared, for messages.
        read: the fingerprint of what is compared of a parameter; None if it has none, on all members alike.
    """
    for held in copies:
        found = {name: read(parameter) for name, parameter in held.parameters.items()}
        names = [name for name, number in found.items() if number is not None]
        if not names:
            continue
        prints = torch.stack([number for number in found.values() if number is not None])
        for place, (usual, others) in differing(prints, held.group, dist.get_process_group_ranks(held.group)).items():
            yield (
                f"{what} of {held.module}: {names[place]} on {ranks_text(others)} differs from that on "
                f"{ranks_text(usual)}, which are {held.why}"
            )
