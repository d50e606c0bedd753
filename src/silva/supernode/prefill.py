"""One prefill batch: SP-TP-SP attention, three engines, two microbatches, cached prefixes.

Attention is staged (paper, section 4.5): sequence parallel down-projections, an all-gather of the
latents, heads spread over the dies for plain attention, an all-to-all, and the output projection
sequence parallel again. Matrix cores do attention and experts, vector cores order and sum tokens,
the copy engine moves dispatch and combine, for two microbatches in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from silva.supernode.cost.attention import (
    core_op,
    mean_context,
    output_ops,
    plain_flops,
    residual_norm,
)
from silva.supernode.cost.exchange import Traffic, bulk_op
from silva.supernode.cost.experts import (
    dense_ops,
    expert_ops,
    gate_ops,
    head_ops,
    placement,
    shared_ops,
)
from silva.supernode.cost.links import all_reduce_op, collective_op, pool_read_s
from silva.supernode.cost.operator import WIDE_BYTES, Matrix, Op, matrix_op, pass_op
from silva.supernode.hardware import MILLI
from silva.supernode.schedule import Event, Task, makespan_s, run
from silva.supernode.system import System
from silva.supernode.workload import PrefillLoad

COMPUTE, VECTOR, COPY, LINK = "compute", "vector", "copy", "link"


@dataclass(frozen=True)
class PrefillOps:
    """Operators of one microbatch in one layer, in order."""

    attention: tuple[Op, ...]
    """With the gate, or the whole layer where it has no experts."""
    dispatch: tuple[Op, ...] = ()
    shared: tuple[Op, ...] = ()
    experts: tuple[Op, ...] = ()
    combine: tuple[Op, ...] = ()


@dataclass(frozen=True)
class PrefillStep:
    """What one batch of an instance takes, and where the time goes."""

    batch_s: float
    tokens_per_npu: float
    first_token_s: float
    """From the start of the batch to its requests' first tokens."""
    layer_s: float
    parts: dict[str, float]
    """Seconds of the batch: cache (reading what is reused), layers, draft."""
    layer: PrefillOps
    events: tuple[Event, ...]

    @property
    def tokens_per_s(self) -> float:
        """Prompt tokens a second of one package, reused ones among them."""
        return self.tokens_per_npu / self.batch_s


@dataclass(frozen=True)
class _Rows:
    """Tokens of one die in one microbatch."""

    new: float
    cached: float
    context: float
    """Tokens that a new one sees on average."""


def prefill_step(system: System, load: PrefillLoad) -> PrefillStep:
    """One batch of prompts, from reading the cache to the first tokens."""
    hw, setup, model = system.machine, system.prefill, system.network
    halves = 2 if load.microbatch and setup.overlap != "none" else 1
    per_die = load.tokens_per_npu / hw.die.per_package
    rows = _Rows(
        new=per_die * (1 - load.cached) / halves,
        cached=per_die * load.cached / halves,
        context=mean_context(load.prompt_len, load.cached),
    )
    hot = system.imbalance if load.balance == "default" else 1.0
    tasks, layer = _tasks(system, rows, hot, halves)
    events = run(tasks)
    layers_s = makespan_s(events)
    draft_s = layers_s / model.layers * min(setup.drafts, model.drafts)
    token_bytes = system.cache_bytes * model.layers
    cache_s = pool_read_s(hw, per_die * load.cached, token_bytes, load.cache)
    head = head_ops(system, per_die / load.prompt_len * setup.tensor, setup.tensor)
    first_s = sum(op.seconds for op in head) + setup.schedule_ms * MILLI
    batch_s = cache_s + layers_s + draft_s
    return PrefillStep(
        batch_s=batch_s,
        tokens_per_npu=load.tokens_per_npu,
        first_token_s=batch_s + first_s,
        layer_s=layers_s / model.layers,
        parts={"cache": cache_s, "layers": layers_s, "draft": draft_s, "first token": first_s},
        layer=layer,
        events=tuple(events),
    )


def layer_ops(system: System, rows: _Rows, hot: float, dense: bool) -> PrefillOps:
    """Operators of a layer for one microbatch on one die."""
    hw, model, setup = system.machine, system.network, system.prefill
    share = 1.0 - setup.communication_cores / hw.die.matrix_cores
    attention = _staged(system, rows, share) if model.is_latent else _headed(system, rows, share)
    attention.append(residual_norm(hw, model, rows.new * setup.tensor))
    if dense:
        return PrefillOps(
            (
                *attention,
                *dense_ops(system, rows.new * setup.tensor, share, setup.tensor),
                *_reduce(system, rows),
            )
        )
    place = placement(model, setup.dies, setup.redundant, 0)
    traffic = Traffic(rows.new, model.experts.chosen, setup.dies, hot)
    sent = rows.new * traffic.copies
    width = model.hidden * WIDE_BYTES
    order = pass_op(hw, "order", rows.new * width + sent * hw.exchange.dispatch_bytes)
    total = pass_op(hw, "sum", sent * hw.exchange.combine_bytes + rows.new * width)
    return PrefillOps(
        (*attention, *gate_ops(system, rows.new, share)),
        (order, bulk_op(hw, "dispatch", traffic)),
        tuple(shared_ops(system, place, rows.new, share)),
        tuple(expert_ops(system, place, rows.new, hot, share)),
        (bulk_op(hw, "combine", traffic), total),
    )


def _staged(system: System, rows: _Rows, share: float) -> list[Op]:
    """Latent attention in three stages; with a group of one die, data-parallel attention."""
    hw, model, precision = system.machine, system.network, system.precision
    h, group = model.heads, system.prefill.sequence_group
    low, wide = precision.weight_bytes, precision.wide_weight_bytes
    latent = h.latent_rank + h.rope_size
    everyone, known = group * rows.new, group * (rows.new + rows.cached)
    down = Matrix(rows.new, h.query_rank + latent, model.hidden, weight_bytes=low)
    gathered = hw.assumed.latent_bytes * (everyone * h.query_rank + known * latent)
    queries = Matrix(everyone, h.query / group * h.query_size, h.query_rank, weight_bytes=low)
    keys = Matrix(
        known, h.query / group * (h.nope_size + h.value_size), h.latent_rank, 1, wide, WIDE_BYTES
    )
    flops = plain_flops(model, rows.new, rows.context)
    read = (2 * rows.new + rows.cached) * h.query * (h.query_size + h.value_size) * WIDE_BYTES
    outputs = rows.new * h.query * h.value_size * WIDE_BYTES
    rank_pass = rows.new * (h.query_rank + latent) * 2 * WIDE_BYTES
    return [
        residual_norm(hw, model, rows.new),
        matrix_op(hw, "down", (down,), share),
        pass_op(hw, "rank norm", rank_pass),
        collective_op(hw, "all-gather", gathered, group),
        matrix_op(hw, "up", (queries, keys), share, starts=2),
        core_op(hw, precision, flops, read, share),
        collective_op(hw, "all-to-all", outputs, group),
        *output_ops(system, rows.new, share, 1),
    ]


def _headed(system: System, rows: _Rows, share: float) -> list[Op]:
    """Grouped-query attention on the dies of a tensor group, which share their requests."""
    hw, model, tensor = system.machine, system.network, system.prefill.tensor
    h, tokens = model.heads, rows.new * tensor
    keys = max(1.0, h.key / tensor)
    columns = h.query / tensor * h.query_size + keys * (h.query_size + h.value_size)
    into = Matrix(tokens, columns, model.hidden, weight_bytes=system.precision.weight_bytes)
    flops = plain_flops(model, tokens, rows.context, tensor)
    read = tokens * columns * WIDE_BYTES
    return [
        residual_norm(hw, model, tokens),
        matrix_op(hw, "into heads", (into,), share),
        core_op(hw, system.precision, flops, read, share),
        *output_ops(system, tokens, share, tensor),
        *_reduce(system, rows),
    ]


def _reduce(system: System, rows: _Rows) -> list[Op]:
    tensor = system.prefill.tensor
    if tensor == 1:
        return []
    moved = rows.new * tensor * system.network.hidden * WIDE_BYTES
    return [all_reduce_op(system.machine, moved, tensor)]


def _tasks(system: System, rows: _Rows, hot: float, halves: int) -> tuple[list[Task], PrefillOps]:
    """Tasks of all layers in the order in which the engines take them, and a typical layer."""
    model = system.network
    kinds = {
        dense: layer_ops(system, rows, hot, dense)
        for dense in {layer < model.dense_layers for layer in range(model.layers)}
    }
    tasks: list[Task] = []
    last: list[tuple[int, ...]] = [()] * halves
    for layer in range(model.layers):
        _add_layer(tasks, kinds[layer < model.dense_layers], layer, last)
    return tasks, kinds[model.is_dense]


def _add_layer(tasks: list[Task], ops: PrefillOps, layer: int, last: list[tuple[int, ...]]) -> None:
    """Attention and shared expert of all microbatches, then their experts; the rest runs beside."""

    def add(each: Sequence[Op], half: int, after: tuple[int, ...], beside: bool) -> tuple[int, ...]:
        for op in each:
            engine = {"vector": VECTOR, "copy": COPY}.get(op.engine, COMPUTE) if beside else COMPUTE
            link = LINK if op.engine in ("link", "copy") else ""
            tasks.append(Task(op.name, engine, op.seconds, after, layer, half, link))
            after = (len(tasks) - 1,)
        return after

    arrived, shared = list(last), list(last)
    for half in range(len(last)):
        gated = add(ops.attention, half, last[half], beside=False)
        arrived[half] = add(ops.dispatch, half, gated, beside=True)
        shared[half] = add(ops.shared, half, gated, beside=False)
    for half in range(len(last)):
        done = add(ops.experts, half, arrived[half], beside=False)
        done = tuple({*done, *shared[half]})
        last[half] = add(ops.combine, half, done, beside=True)
