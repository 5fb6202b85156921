"""The communicator of megatron-core's pipeline schedule, for a DAG of modules: our bridges between modules, its own
point-to-point operations between the stages of one.

Every send of a call is posted before anything is waited for, over all bridges. So no order of edges, and no branch that
is shorter than another, can stop the ranks. A module that feeds several gets the sum of their gradients.

Modules that share ranks run in one forward pass (model.py): edges between them are not seen here, and they are one
node of the pipeline (planner/pipeline.py).
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.transformer.transformer_config import TransformerConfig

from planner import MIMO_LANGUAGE_MODULE_KEY, GroupKind, Plan
from planner.layout.ir import edge_name

from ..groups.groups import ProcessGroups
from .bridge import DisjointBridge
from .shared_bridge import SharedBridge

Tensors = dict[str, Any]  # by module: what it has received, or hands on


class PipelineCommunicator:
    """What `forward_backward_pipelining_without_interleaving` asks of its `p2p_communicator`.

    Attributes:
        total_stages, current_stage: of the longest path through the DAG, as megatron-core counts them.
        is_pp_first_stage, is_pp_last_stage: of the whole model.
    """

    def __init__(self, groups: ProcessGroups, config: TransformerConfig, device: torch.device) -> None:
        plan, view = groups.plan, groups.view
        self.config = config
        self.current_stage, self.total_stages = stage_of(plan, groups.rank), plan.pipeline.num_stages
        self.is_pp_first_stage = any(stage.is_model_first for stage in view.stages.values())
        self.is_pp_last_stage = any(stage.is_model_last for stage in view.stages.values())
        role = view.role
        inner = {name: P2PCommunicator(groups.get(name, GroupKind.PP), config) for name in role.modules}
        self._after_others = [(name, stages) for name, stages in inner.items() if not role.is_first_stage(name)]
        self._before_others = [(name, stages) for name, stages in inner.items() if not role.is_last_stage(name)]
        made = [
            DisjointBridge(groups, src, dst, config.pipeline_dtype, device)
            for src, dst in plan.pipeline.hops
            if role.is_last_stage(src) or role.is_first_stage(dst)
        ]
        self.outgoing = [bridge for bridge in made if bridge.is_source]
        self.incoming = [bridge for bridge in made if not bridge.is_source]

    # ---- the schedule's calls. Its flags for first and last stages are those of a single module, and not read here.

    def recv_forward(self, tensor_shapes: Any = None, is_first_stage: bool = False) -> Tensors:  # noqa: ARG002
        inputs = self._inputs()
        for name, stages in self._after_others:
            inputs[name] = _unwrapped(stages.recv_forward(tensor_shapes, False))
        return inputs

    def send_forward(self, outputs: Tensors, is_last_stage: bool = False) -> None:  # noqa: ARG002
        self._send_outputs(outputs)
        for name, stages in self._before_others:
            stages.send_forward(_wrapped(outputs[name]), False)

    def recv_backward(self, tensor_shapes: Any = None, is_last_stage: bool = False) -> Tensors:  # noqa: ARG002
        gradients = self._gradients()
        for name, stages in self._before_others:
            gradients[name] = _unwrapped(stages.recv_backward(tensor_shapes, False))
        return gradients

    def send_backward(self, gradients: Tensors, is_first_stage: bool = False) -> None:  # noqa: ARG002
        self._send_gradients(gradients)
        for name, stages in self._after_others:
            stages.send_backward(_wrapped(gradients[name]), False)

    def send_forward_recv_backward(self, outputs: Tensors, tensor_shapes: Any = None, *_: Any) -> Tensors:
        self._send_outputs(outputs)
        gradients = self._gradients()
        for name, stages in self._before_others:
            sent = _wrapped(outputs[name])
            gradients[name] = _unwrapped(stages.send_forward_recv_backward(sent, tensor_shapes, False))
        return gradients

    def send_backward_recv_forward(self, gradients: Tensors, tensor_shapes: Any = None, *_: Any) -> Tensors:
        self._send_gradients(gradients)
        inputs = self._inputs()
        for name, stages in self._after_others:
            sent = _wrapped(gradients[name])
            inputs[name] = _unwrapped(stages.send_backward_recv_forward(sent, tensor_shapes, False))
        return inputs

    def flush(self) -> None:
        """Wait for all sends, when a step has ended: their tensors are not kept any longer."""
        for bridge in (*self.outgoing, *self.incoming):
            bridge.link.flush()

    # ---- over the bridges

    def _send_outputs(self, outputs: Tensors) -> None:
        for bridge in self.outgoing:
            bridge.send(outputs[bridge.src])

    def _send_gradients(self, gradients: Tensors) -> None:
        for bridge in self.incoming:
            bridge.send(gradients[key_of(bridge)])

    def _inputs(self) -> Tensors:
        waiting = [bridge.expect() for bridge in self.incoming]
        return {key_of(bridge): finish() for bridge, finish in zip(self.incoming, waiting, strict=True)}

    def _gradients(self) -> Tensors:
        """The gradient of each module's output: the sum of those of all its edges."""
        waiting = [bridge.expect() for bridge in self.outgoing]
        found: Tensors = {}
        for bridge, finish in zip(self.outgoing, waiting, strict=True):
            gradient = finish()
            found[bridge.src] = found[bridge.src].add_(gradient) if bridge.src in found else gradient
        return found


def key_of(bridge: DisjointBridge | SharedBridge) -> str:
    """The name under which a rank finds what has come over an edge: language by modality, as MimoModel looks for it;
    an encoder by the edge, since what one module hands to two of a rank's may differ."""
    return bridge.src if bridge.dst == MIMO_LANGUAGE_MODULE_KEY else edge_name(bridge.src, bridge.dst)


def stage_of(plan: Plan, rank: int) -> int:
    """The rank's place in the schedule."""
    return plan.pipeline.place({name: view.stage for name, view in plan.view(rank).stages.items()})


def _wrapped(value: torch.Tensor | None) -> torch.Tensor | None:
    """For P2PCommunicator, which sends tensors of three dims: rows get a last one of size 1."""
    return value.unsqueeze(-1) if value is not None and value.ndim == 2 else value


def _unwrapped(received: Any) -> torch.Tensor | None:
    value: torch.Tensor | None = received[0] if isinstance(received, list) else received
    return value.squeeze(-1) if value is not None and value.ndim == 3 and value.shape[-1] == 1 else value
