"""Two microbatches of a pass: while tokens of one are under way, the other one computes.

    attention of A, dispatch A, shared experts of A
                                                    attention of B, dispatch B, shared experts of B
    experts on what came of A, answers
                                                    experts on what came of B, answers
    combine A, attention of A in the next layer ...

The decode pipeline of arXiv 2506.12708, section 4.2.3, on one thread: the order is the same on all
ranks, whatever they have tokens for, so none waits for one that waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from silva.experts.exchange import Round
from silva.experts.lanes import Lanes
from silva.models.deepseek import Deepseek, Flow, GateWeights, LayerWeights, swiglu
from silva.models.gate import choose


class _Begun(NamedTuple):
    """Half a layer: tokens are with the experts."""

    round: Round
    shared: Tensor | None
    """What the shared experts said meanwhile; None where there are no tokens."""


def overlapped(model: Deepseek, flows: Sequence[Flow | None], lanes: Lanes) -> Tensor:
    """Both halves through all their layers, one lane each; hidden states of the first, then the other.

    None stands for a half in which this rank has no tokens; it has some in the first one.
    """
    first = flows[0]
    assert first is not None
    begun: list[_Begun | None] = [None] * len(flows)
    for n, layer in first.layers:
        for lane, flow in enumerate(flows):
            _end(lane, flow, begun[lane], lanes)
            begun[lane] = _begin(model, lane, n, layer, flow, lanes)
        for lane, half in enumerate(begun):
            if half is not None:
                lanes.lanes[lane].serve(half.round)
    for lane, flow in enumerate(flows):
        _end(lane, flow, begun[lane], lanes)
    return torch.cat([model.norm(flow.x, flow.norm) for flow in flows if flow is not None])


def _begin(
    model: Deepseek, lane: int, n: int, layer: LayerWeights, flow: Flow | None, lanes: Lanes
) -> _Begun | None:
    """A layer up to the dispatch, or all of a layer without experts."""
    if flow is None:
        return _Begun(lanes.begin_none(lane, n), None) if layer.gate is not None else None
    model.attention(n, layer, flow)
    x = model.norm(flow.x, layer.mlp_norm)
    if layer.gate is None:
        flow.x = flow.x + swiglu(layer.mlp, x)
        return None
    round_ = lanes.begin(lane, n, x, *_chosen(model, layer.gate, x))
    return _Begun(round_, swiglu(layer.mlp, x))


def _chosen(model: Deepseek, gate: GateWeights, x: Tensor) -> tuple[Tensor, Tensor]:
    return choose(x, gate.weight, gate.bias, model.config.gate)


def _end(lane: int, flow: Flow | None, begun: _Begun | None, lanes: Lanes) -> None:
    """The rest of a layer."""
    if begun is None:
        return
    answer = lanes.lanes[lane].end(begun.round)
    if flow is not None and begun.shared is not None:
        flow.x = flow.x + (answer + begun.shared)
