"""The communicator of megatron-core's pipeline schedule, for a DAG of modules.

Between modules it uses the plan's bridges; between the stages of one module, megatron-core's own point-to-point
operations. In each call the sends over all bridges are posted before anything is waited for, so neither the order of
the edges nor a branch that is shorter than another can stop the ranks. A module that feeds several others gets the sum
of their gradients.

Modules that share ranks run in one forward pass (executor/model/model.py). They are one node of the pipeline
(planner/layout/stage_order.py), and the edges between them are not seen here.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.transformer.transformer_config import TransformerConfig

from planner import MIMO_LANGUAGE_MODULE_KEY, GroupKind
from planner.layout.ir import edge_name

from ..groups.groups import ProcessGroups
from .bridge import DisjointBridge
from .shared_bridge import SharedBridge

Tensors = dict[str, Any]  # by module or edge, as `key_of` names them: what has been received, or is handed on


class PipelineCommunicator:
    """What `forward_backward_pipelining_without_interleaving` asks of its `p2p_communicator`.

    Attributes:
        total_stages: number of stages of the pipeline that runs (`plan.pipeline`), not of megatron-core's count.
        current_stage: this rank's position in that pipeline.
        is_pp_first_stage, is_pp_last_stage: whether the rank holds a first, or a last, stage of the whole model.
        outgoing, incoming: the bridges of which the rank is at the source, or at the destination.
    """

    def __init__(self, groups: ProcessGroups, config: TransformerConfig, device: torch.device) -> None:
        plan, view = groups.plan, groups.view
        self.config = config
        self.current_stage, self.total_stages = groups.view.position, groups.view.total_stages
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

    # ---- the schedule's calls. Their flags for first and last stages are about a single module, and are not read here.

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
        """Wait for all sends at the end of a step, so that their tensors are not kept any longer."""
        for bridge in (*self.outgoing, *self.incoming):
            bridge.p2p.flush()

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
        """The gradient of each module's output: the sum over all edges that leave it."""
        waiting = [bridge.expect() for bridge in self.outgoing]
        found: Tensors = {}
        for bridge, finish in zip(self.outgoing, waiting, strict=True):
            gradient = finish()
            found[bridge.src] = found[bridge.src].add_(gradient) if bridge.src in found else gradient
        return found


def key_of(bridge: DisjointBridge | SharedBridge) -> str:
    """The name under which a rank finds what has come over an edge.

    For language it is the name of the source, since MimoModel looks for the modality. For an encoder it is the name of
    the edge, since what one module hands to two encoders of a rank may differ.
    """
    return bridge.src if bridge.dst == MIMO_LANGUAGE_MODULE_KEY else edge_name(bridge.src, bridge.dst)


def _wrapped(value: torch.Tensor | None) -> torch.Tensor | None:
    """A tensor as P2PCommunicator sends it, with three dims: rows get a last dim of size 1."""
    return value.unsqueeze(-1) if value is not None and value.ndim == 2 else value


def _unwrapped(received: Any) -> torch.Tensor | None:
    """What `_wrapped` wrapped, as P2PCommunicator hands it over: alone, or as the only one of a list."""
    value: torch.Tensor | None = received[0] if isinstance(received, list) else received
    return value.squeeze(-1) if value is not None and value.ndim == 3 and value.shape[-1] == 1 else value
