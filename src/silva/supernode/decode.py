"""One decode step: two streams, two microbatches, drafts, and what surrounds the layers.

Overlap "cores" (paper, section 4.3): stream 0 does attention, stream 1 gate, dispatch, experts and
combine, each on its part of the cores, and two microbatches alternate between them. Overlap
"engines" (DeepSeek's H800 service): compute on all cores, dispatch and combine on a network that
needs none. Without microbatches every operator has the whole die, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from silva.supernode.cost.attention import Queries, decode_attention, residual_norm
from silva.supernode.cost.exchange import Traffic, combine_op, dispatch_op
from silva.supernode.cost.experts import (
    dense_ops,
    expert_ops,
    gate_ops,
    head_ops,
    placement,
    shared_ops,
)
from silva.supernode.cost.links import all_reduce_op
from silva.supernode.cost.operator import WIDE_BYTES, Matrix, Op, matrix_op, pass_op
from silva.supernode.hardware import MILLI
from silva.supernode.schedule import Event, Task, makespan_s, run
from silva.supernode.system import System
from silva.supernode.workload import DecodeLoad

ATTENTION, EXPERTS, DIE, NETWORK = "attention stream", "expert stream", "die", "network"


@dataclass(frozen=True)
class LayerOps:
    """Operators of one microbatch in one layer, in order: attention, then the feed-forward part."""

    attention: tuple[Op, ...]
    feed_forward: tuple[Op, ...]
    shared: tuple[Op, ...] = ()
    """The shared expert on each die, which nothing but its tokens holds up."""

    @property
    def seconds(self) -> float:
        """All of them one after the other."""
        return _seconds(self.attention) + _seconds(self.shared) + _seconds(self.feed_forward)


@dataclass(frozen=True)
class DecodeStep:
    """What one iteration of a decode instance takes, and where the time goes."""

    iteration_s: float
    tokens: float
    """Tokens that a request is given in one iteration, on average."""
    batch_per_npu: float
    layer_s: float
    """One layer with experts in the steady state, both microbatches."""
    parts: dict[str, float]
    """Seconds of the iteration: layers, draft, head, gaps."""
    cores: int
    """Matrix cores of the attention stream; 0 where the die is not split."""
    layer: LayerOps
    events: tuple[Event, ...]

    @property
    def tpot_s(self) -> float:
        """Seconds for each token of a request."""
        return self.iteration_s / self.tokens

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of one package."""
        return self.batch_per_npu / self.tpot_s


def decode_step(system: System, load: DecodeLoad) -> DecodeStep:
    """The iteration of a batch in its steady state."""
    hw, setup = system.machine, system.decode
    drafts = min(setup.drafts, system.network.drafts) if load.mtp else 0
    halves = 2 if load.microbatch and setup.overlap != "none" else 1
    per_die = load.batch_per_npu / hw.die.per_package
    queries = Queries(per_die, per_die * (1 + drafts), load.mean_kv)
    part = replace(queries, requests=per_die / halves, tokens=queries.tokens / halves)
    cores = _split(system, part) if halves == 2 and setup.overlap == "cores" else 0
    tasks = _layers(system, part, halves, cores)
    events = run(tasks)
    layers_s = makespan_s(events)
    head_s = _seconds(head_ops(system, queries.tokens * setup.tensor, setup.tensor))
    draft_s = _draft_s(system, queries) * drafts
    graphs = 0 if setup.pipelined_launch else 1 + drafts
    gaps_s = (graphs * hw.static.graph_gap_ms + setup.schedule_ms) * MILLI
    parts = {"layers": layers_s, "head": head_s, "draft": draft_s, "gaps": gaps_s}
    return DecodeStep(
        iteration_s=sum(parts.values()),
        tokens=1 + drafts * load.acceptance,
        batch_per_npu=load.batch_per_npu,
        layer_s=_steady_s(events, system.network.layers),
        parts=parts,
        cores=cores,
        layer=layer_ops(system, part, _share(system, cores), dense=system.network.is_dense),
        events=tuple(events),
    )


def layer_ops(
    system: System, queries: Queries, shares: tuple[float, float], dense: bool = False
) -> LayerOps:
    """Operators of a layer, attention and feed-forward on these shares of the die."""
    hw, model, setup = system.machine, system.network, system.decode
    tensor, (first, second) = setup.tensor, shares
    group = replace(
        queries, requests=queries.requests * tensor, tokens=queries.tokens * tensor
    )  # the dies of a tensor group work on the same requests
    attention = decode_attention(system, group, first, tensor)
    reduce = all_reduce_op(hw, group.tokens * model.hidden * WIDE_BYTES, tensor)
    if dense:
        norm = residual_norm(hw, model, group.tokens)
        body = [norm, *dense_ops(system, group.tokens, second, tensor)]
        if tensor == 1:
            return LayerOps(tuple(attention), tuple(body))
        return LayerOps((*attention, reduce), (*body, reduce))
    place = placement(model, setup.dies, setup.redundant, setup.shared_dies)
    tokens, hot = queries.tokens, system.imbalance
    traffic = Traffic(tokens, model.experts.chosen + place.copies, setup.dies, hot)
    body = [
        residual_norm(hw, model, tokens),
        *gate_ops(system, tokens, second),
        dispatch_op(hw, traffic, second),
        *expert_ops(system, place, tokens, hot, second),
        combine_op(hw, traffic, second),
    ]
    if tensor > 1:
        attention.append(reduce)
    return LayerOps(tuple(attention), tuple(body), tuple(shared_ops(system, place, tokens, second)))


def stream_seconds(layer: LayerOps) -> tuple[float, float]:
    """Both streams' stages for one microbatch, lengthened by what they take from the memory.

    A stage draws on memory for m of its s seconds. While both do, each gets half: over a stage of
    T = max(s0, s1) they meet for m0 m1 / T on average, and both are so much longer.
    """
    first = _seconds(layer.attention)
    second = _seconds(layer.feed_forward) + _seconds(layer.shared)
    memory = (
        sum(op.memory_s for op in layer.attention),
        sum(op.memory_s for op in (*layer.feed_forward, *layer.shared)),
    )
    meeting = memory[0] * memory[1] / max(first, second)
    return first + meeting, second + meeting


def _split(system: System, queries: Queries) -> int:
    """Matrix cores of the attention stream: the fixed split, or the one that is fastest."""
    setup, dense = system.decode, system.network.is_dense
    if not setup.balance_cores:
        return setup.attention_cores
    choices = range(1, system.machine.die.matrix_cores)

    def stage(cores: int) -> float:
        return max(stream_seconds(layer_ops(system, queries, _share(system, cores), dense)))

    return min(choices, key=stage)


def _share(system: System, cores: int) -> tuple[float, float]:
    """Shares of the die for attention and the rest; vector cores follow the matrix cores."""
    if not cores:
        return 1.0, 1.0
    part = cores / system.machine.die.matrix_cores
    return part, 1.0 - part


def _layers(system: System, queries: Queries, halves: int, cores: int) -> list[Task]:
    """Tasks of all layers and microbatches, in the order in which resources take them."""
    model, shares = system.network, _share(system, cores)
    kinds = {
        dense: layer_ops(system, queries, shares, dense)
        for dense in {layer < model.dense_layers for layer in range(model.layers)}
    }
    tasks: list[Task] = []
    last: list[tuple[int, ...]] = [()] * halves
    for layer in range(model.layers):
        ops = kinds[layer < model.dense_layers]
        if cores:
            add_streams(tasks, ops, layer, last)
        elif system.decode.overlap == "engines":
            add_engines(tasks, ops, layer, last)
        else:
            for half in range(halves):
                every = (*ops.attention, *ops.shared, *ops.feed_forward)
                add_chain(tasks, [(op, DIE, op.seconds) for op in every], layer, half, last)
    return tasks


def add_chain(
    tasks: list[Task],
    ops: Sequence[tuple[Op, str, float]],
    layer: int,
    half: int,
    last: list[tuple[int, ...]],
) -> None:
    """Operators, their resources and seconds, each after the one before in its microbatch."""
    for op, resource, seconds in ops:
        tasks.append(Task(op.name, resource, seconds, last[half], layer, half))
        last[half] = (len(tasks) - 1,)


def add_streams(tasks: list[Task], ops: LayerOps, layer: int, last: list[tuple[int, ...]]) -> None:
    """A layer on two streams: attention of one microbatch beside the experts of the other."""
    first, second = stream_seconds(ops)
    stages = (
        (ops.attention, ATTENTION, first / max(_seconds(ops.attention), 1e-12)),
        (
            (*ops.shared, *ops.feed_forward),
            EXPERTS,
            second / max(_seconds(ops.shared) + _seconds(ops.feed_forward), 1e-12),
        ),
    )
    for half in range(len(last)):
        for stage, stream, longer in stages:
            chain = [(op, stream, op.seconds * longer) for op in stage]
            add_chain(tasks, chain, layer, half, last)


def add_engines(tasks: list[Task], ops: LayerOps, layer: int, last: list[tuple[int, ...]]) -> None:
    """A layer on compute and network: attention and shared expert of all microbatches, then experts.

    The shared expert does not wait for the dispatch, nor anything but the last sum for it.
    """
    body = list(ops.feed_forward)
    cut = next((i for i, op in enumerate(body) if op.name == "dispatch"), len(body))
    for half in range(len(last)):
        before = [*ops.attention, *body[:cut]]
        add_chain(tasks, [(op, DIE, op.seconds) for op in before], layer, half, last)
        gated = last[half]
        add_chain(
            tasks, [(op, NETWORK, op.seconds) for op in body[cut : cut + 1]], layer, half, last
        )
        arrived, last[half] = last[half], gated
        add_chain(tasks, [(op, DIE, op.seconds) for op in ops.shared], layer, half, last)
        last[half] = tuple({*arrived, *last[half]})
    for half in range(len(last)):
        rest = [(op, NETWORK if op.engine == "link" else DIE, op.seconds) for op in body[cut + 1 :]]
        add_chain(tasks, rest, layer, half, last)


def _draft_s(system: System, queries: Queries) -> float:
    """The draft module: joins two rows to one, is one more layer, and chooses a token a request."""
    hw, model, tensor = system.machine, system.network, system.decode.tensor
    join = Matrix(
        queries.tokens, model.hidden / tensor, 2 * model.hidden, 1, system.precision.weight_bytes
    )
    ops = [
        pass_op(hw, "norm", queries.tokens * 2 * model.hidden * 2 * WIDE_BYTES),
        matrix_op(hw, "join", (join,)),
        *head_ops(system, queries.requests * tensor, tensor),
    ]
    layer = layer_ops(system, queries, (1.0, 1.0), dense=model.is_dense)
    return _seconds(ops) + layer.seconds


def _steady_s(events: Sequence[Event], layers: int) -> float:
    """Time from the end of one layer to the end of the next, over the second half of the layers."""
    ends: dict[int, float] = {}
    for event in events:
        ends[event.task.layer] = max(ends.get(event.task.layer, 0.0), event.end_s)
    middle = layers // 2
    if middle == layers - 1:
        return ends[middle]
    return (ends[layers - 1] - ends[middle]) / (layers - 1 - middle)


def _seconds(ops: Sequence[Op]) -> float:
    return sum(op.seconds for op in ops)
