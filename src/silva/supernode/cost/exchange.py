"""Dispatch and combine among the ranks of an expert group, in decode and in bulk.

In decode every vector core stores straight into its peers' memory (paper, section 4.1): a fixed
part, work a token that grows a little with the number of ranks, and the bytes on the links. The
three unknowns come from the paper's Table 7, six points each; see silva.supernode.fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from silva.supernode.cost.operator import Op
from silva.supernode.hardware import GIGA, MICRO, Hardware, Table

COPIES = 8.0
"""Copies of a token in the measurements that the fit starts from: the top 8."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one rank sends: tokens, the copies of each, and the ranks that they spread over."""

    tokens: float
    copies: float
    ranks: int
    hot: float = 1.0
    """Load of the hottest rank over the mean: its links carry as much more."""


def link_s(hw: Hardware, moved_bytes: float, ranks: int) -> float:
    """Seconds that evenly spread bytes of one rank take: none of them on its own package."""
    inside = min(ranks, hw.die.per_package)
    node = min(ranks, hw.dies_per_node)
    near, far = (node - inside) / ranks, 1.0 - node / ranks
    rate = hw.exchange
    return moved_bytes * (near / rate.node_gbps + far / rate.gbps) / GIGA


def dispatch_op(hw: Hardware, traffic: Traffic, share: float) -> Op:
    """Tokens to their experts, quantised on the way, on `share` of the vector cores."""
    fit = hw.fitted
    work = fit.dispatch_token_us + fit.dispatch_peer_us * math.log(traffic.ranks)
    return _exchange(hw, "dispatch", traffic, (work, hw.exchange.dispatch_bytes), share)


def combine_op(hw: Hardware, traffic: Traffic, share: float) -> Op:
    """Results back to where their tokens came from, in BF16, and their weighted sum."""
    fit = hw.fitted
    work = fit.combine_token_us + fit.combine_peer_us * math.log(traffic.ranks)
    return _exchange(hw, "combine", traffic, (work, hw.exchange.combine_bytes), share)


def _exchange(
    hw: Hardware, name: str, traffic: Traffic, costs: tuple[float, float], share: float
) -> Op:
    token_us, message = costs
    sent = traffic.tokens * traffic.copies
    work = sent / COPIES * token_us * MICRO * slowdown(hw, share)
    moving = link_s(hw, sent * message * traffic.hot, traffic.ranks)
    return Op(name, "link", hw.exchange.fixed_us * MICRO + work + moving)


def slowdown(hw: Hardware, share: float) -> float:
    """How much longer a token's work takes on `share` of the vector cores than on all.

    A few cores copy at a good part of the full rate: n of them at n / (n + `copy_cores`).
    """
    every, half = hw.die.vector_cores, hw.fitted.copy_cores
    return (1.0 + half / (every * share)) / (1.0 + half / every)


def bulk_op(hw: Hardware, name: str, traffic: Traffic) -> Op:
    """Dispatch or combine of thousands of tokens, at the rate measured for such (column by name).

    Where a token travels once to each node, the far links carry the distinct nodes of its experts,
    and the near ones all copies, at the same time.
    """
    column = 1 if name == "dispatch" else 2
    message = hw.exchange.dispatch_bytes if column == 1 else hw.exchange.combine_bytes
    sent = traffic.tokens * message * traffic.hot
    rate = interpolated(hw.tables.bulk, traffic.ranks, column) * GIGA
    start = hw.static.collective_us * MICRO
    if not hw.exchange.once_per_node:
        away = 1.0 - min(traffic.ranks, hw.die.per_package) / traffic.ranks
        return Op(name, "copy", start + sent * traffic.copies * away / rate)
    nodes = max(1.0, traffic.ranks / hw.dies_per_node)
    far = distinct_nodes(traffic.copies, nodes) * (1.0 - 1.0 / nodes)
    near = traffic.copies * (1.0 - 1.0 / min(traffic.ranks, hw.dies_per_node))
    near_rate = hw.scale_up.node_write_gbps * GIGA
    return Op(name, "copy", start + sent * max(far / rate, near / near_rate))


def distinct_nodes(copies: float, nodes: float) -> float:
    """Expected nodes that so many copies, spread evenly, fall on."""
    return float(nodes * (1.0 - (1.0 - 1.0 / nodes) ** copies)) if nodes > 1 else 1.0


def interpolated(table: Table, ranks: float, column: int) -> float:
    """A column of a table over ranks, on a logarithmic axis, flat beyond both ends."""
    rows = sorted(table)
    if ranks <= rows[0][0]:
        return rows[0][column]
    for before, after in pairwise(rows):
        if ranks <= after[0]:
            part = math.log(ranks / before[0]) / math.log(after[0] / before[0])
            return before[column] + part * (after[column] - before[column])
    return rows[-1][column]
