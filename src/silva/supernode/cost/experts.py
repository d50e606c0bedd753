"""Feed-forward parts on one die: the gate, routed and shared experts, and the dense form.

How many tokens a die computes follows from where the copies of the experts lie. Perfect routing
spreads them evenly over all copies; the one factor of imbalance is the load of the hottest die over
the mean one, and the hottest die sets the pace of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from silva.supernode.cost.operator import WIDE_BYTES, Matrix, Op, matrix_op, pass_op
from silva.supernode.model import Model
from silva.supernode.system import System

GATE_BYTES = 4.0
"""The gate computes in FP32 (paper, section 4.8)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Copies of experts over the dies of one instance, as they bear on the busiest die."""

    dies: int
    routed_dies: int
    slots: float
    """Copies of routed experts on one die that holds any."""
    shared: bool
    """Whether each die computes the shared expert for its own tokens."""
    shared_dies: int

    @property
    def copies(self) -> int:
        """Messages for each token beside those to the chosen routed experts."""
        return 0 if self.shared or not self.shared_dies else 1


def placement(model: Model, dies: int, redundant: int, shared_dies: int) -> Placement:
    """Routed experts and their redundant copies, spread over the dies that are not for the shared."""
    apart = min(shared_dies, dies - 1) if model.experts.shared else 0
    routed_dies = dies - apart
    slots = max(1.0, (model.experts.routed + redundant) / routed_dies)
    return Placement(dies, routed_dies, slots, bool(model.experts.shared) and not apart, apart)


def gate_ops(system: System, tokens: float, share: float) -> list[Op]:
    """Scores of all experts and the choice among them."""
    hw, model = system.machine, system.network
    scores = Matrix(tokens, model.experts.routed, model.hidden, 1, GATE_BYTES, WIDE_BYTES)
    chosen = pass_op(hw, "choose", 2 * tokens * model.experts.routed * GATE_BYTES)
    return [matrix_op(hw, "gate", (scores,), share), chosen]


def feed_forward_ops(
    system: System, name: str, rows: float, inner: float, share: float, groups: float = 1.0
) -> list[Op]:
    """Gate and up product, activation with quantisation, down product: `rows` in each group."""
    hw, model, low = system.machine, system.network, system.precision.weight_bytes
    up = Matrix(rows, 2 * inner, model.hidden, groups, low)
    down = Matrix(rows, model.hidden, inner, groups, low)
    between = rows * groups * inner * (2 * WIDE_BYTES + 1.0)
    return [
        matrix_op(hw, f"{name} up", (up,), share),
        pass_op(hw, "activate", between),
        matrix_op(hw, f"{name} down", (down,), share),
    ]


def expert_ops(
    system: System, place: Placement, tokens: float, hot: float, share: float
) -> list[Op]:
    """Experts of the busiest die when each of the instance's dies brings `tokens` tokens.

    Where some dies hold only the shared expert, the busiest is of either kind.
    """
    experts = system.network.experts
    routed = tokens * place.dies * experts.chosen / place.routed_dies * hot
    ops = feed_forward_ops(
        system, "experts", routed / place.slots, experts.inner, share, place.slots
    )
    if not place.shared_dies:
        return ops
    apart = tokens * place.dies / place.shared_dies * experts.shared
    other = feed_forward_ops(system, "experts", apart, experts.inner, share)
    return max(ops, other, key=lambda each: sum(op.seconds for op in each))


def shared_ops(system: System, place: Placement, tokens: float, share: float) -> list[Op]:
    """The shared expert for a die's own tokens, where every die has one."""
    experts = system.network.experts
    if not place.shared:
        return []
    return feed_forward_ops(system, "shared", tokens, experts.inner * experts.shared, share)


def dense_ops(system: System, tokens: float, share: float, tensor: int) -> list[Op]:
    """The feed-forward part of a layer without experts."""
    return feed_forward_ops(system, "dense", tokens, system.network.dense_inner / tensor, share)


def head_ops(system: System, tokens: float, tensor: int) -> list[Op]:
    """Final norm, the head over the whole vocabulary and the choice of a token, on a whole die."""
    hw, model = system.machine, system.network
    wide = system.precision.wide_weight_bytes
    head = Matrix(tokens, model.vocabulary / tensor, model.hidden, 1, wide, WIDE_BYTES)
    passes = hw.assumed.sort_passes * tokens * model.vocabulary / tensor * GATE_BYTES
    return [
        pass_op(hw, "norm", tokens * model.hidden * 2 * WIDE_BYTES),
        matrix_op(hw, "head", (head,)),
        pass_op(hw, "sample", passes),
    ]
