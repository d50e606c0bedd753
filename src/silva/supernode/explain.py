"""Where a step's time goes: one layer's operators as a table, for decode and for prefill."""

from __future__ import annotations

from collections.abc import Iterable

from silva.supernode.cost.operator import Op
from silva.supernode.decode import DecodeStep
from silva.supernode.prefill import PrefillStep


def explain_decode(step: DecodeStep) -> str:
    """Operators of one microbatch in one layer, then the parts of the iteration."""
    layer = step.layer
    halves = 1 + max((event.task.microbatch for event in step.events), default=0)
    split = f", {step.cores} matrix cores for attention" if step.cores else ""
    lines = [f"one layer, {halves} microbatch{'es' if halves > 1 else ''}{split}"]
    lines += _table("attention", layer.attention)
    lines += _table("shared expert", layer.shared)
    lines += _table("feed-forward", layer.feed_forward)
    lines.append(f"{'layer, all microbatches':<42}{step.layer_s * 1e6:>12,.1f} us")
    lines += _parts(step.parts, step.iteration_s, "iteration")
    lines.append(f"{'tokens a request':<42}{step.tokens:>12.2f}")
    lines.append(f"{'time a token':<42}{step.tpot_s * 1e3:>12.2f} ms")
    return "\n".join(lines)


def explain_prefill(step: PrefillStep) -> str:
    """Operators of one microbatch in one layer, then the parts of the batch."""
    layer = step.layer
    lines = ["one layer, one microbatch"]
    for name in ("attention", "dispatch", "shared", "experts", "combine"):
        lines += _table(name, getattr(layer, name))
    lines.append(f"{'layer, all microbatches':<42}{step.layer_s * 1e6:>12,.1f} us")
    lines += _parts(step.parts, step.first_token_s, "to the first token")
    return "\n".join(lines)


def _table(title: str, ops: Iterable[Op]) -> list[str]:
    ops = list(ops)
    if not ops:
        return []
    total = sum(op.seconds for op in ops)
    lines = [f"  {title:<40}{total * 1e6:>12,.1f} us"]
    return lines + [f"    {op.name:<22}{op.engine:<16}{op.seconds * 1e6:>12,.1f} us" for op in ops]


def _parts(parts: dict[str, float], total: float, name: str) -> list[str]:
    lines = [f"  {part:<40}{seconds * 1e3:>12,.2f} ms" for part, seconds in parts.items()]
    return [*lines, f"{name:<42}{total * 1e3:>12,.2f} ms"]
