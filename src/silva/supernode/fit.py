"""Fits the parameters of [fitted] from the tables of a machine's spec.

    python -m silva.supernode.fit cloudmatrix-infer

prints them; they are frozen in the spec files, and a test compares. One more factor, the imbalance
of a system's experts, is fitted on one ratio of results, which its spec names. Searches refine grids,
so that the same tables always give the same digits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import product

import numpy as np

from silva.supernode.cost.exchange import COPIES, link_s
from silva.supernode.cost.operator import Matrix, matrix_s
from silva.supernode.hardware import GIGA, MICRO, TERA, Fitted, Hardware
from silva.supernode.prefill import prefill_step
from silva.supernode.system import System, load_system
from silva.supernode.workload import PrefillLoad

DIGITS = 4
"""Significant digits that are frozen."""

_ROUNDS, _POINTS, _SHRINK = 14, 5, 0.55
_START = Fitted(0.9, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def fitted(hw: Hardware, weight_bytes: float = 1.0) -> Fitted:
    """All fitted parameters of a machine, to the digits that are frozen.

    weight_bytes: of the products in its tables, INT8 or FP8 unless told otherwise
    """
    network = hw.scale_up.read_gbps / hw.scale_up.nominal_gbps
    so_far = replace(_START, network=network)
    for _ in range(4):  # the overlap bears a little on large products, and they on it
        so_far = _with_overlap(hw, _with_products(hw, so_far, weight_bytes), weight_bytes)
    dispatch = exchange_work(hw, 2, hw.exchange.dispatch_bytes)
    combine = exchange_work(hw, 3, hw.exchange.combine_bytes)
    every = replace(
        so_far,
        dispatch_token_us=dispatch[0],
        dispatch_peer_us=dispatch[1],
        combine_token_us=combine[0],
        combine_peer_us=combine[1],
        copy_cores=copy_cores(hw),
    )
    return Fitted(**{name: float(f"{value:.{DIGITS}g}") for name, value in asdict(every).items()})


def _with_products(hw: Hardware, so_far: Fitted, weight_bytes: float) -> Fitted:
    """Share of the peak of deep tiles, and the depth that a tile's start is worth."""

    def cost(values: Sequence[float]) -> float:
        trial = replace(so_far, gemm_compute=values[0], gemm_depth=values[1])
        return _squares(gemm_errors(replace(hw, fitted=trial), weight_bytes))

    compute, depth = _minimum(cost, [(0.3, 1.0), (0.0, 2000.0)])
    return replace(so_far, gemm_compute=compute, gemm_depth=depth)


def _with_overlap(hw: Hardware, so_far: Fitted, weight_bytes: float) -> Fitted:
    """How far arithmetic and the reading of weights overlap."""

    def cost(values: Sequence[float]) -> float:
        trial = replace(so_far, gemm_overlap=values[0])
        return _squares(grouped_errors(replace(hw, fitted=trial), weight_bytes))

    (overlap,) = _minimum(cost, [(1.0, 9.0)])
    return replace(so_far, gemm_overlap=overlap)


def gemm_errors(hw: Hardware, weight_bytes: float = 1.0) -> list[float]:
    """Relative errors of predicted rates against the table "gemm"."""
    errors = []
    for groups, rows, columns, inner, share in hw.tables.gemm:
        work = Matrix(rows, columns, inner, groups, weight_bytes)
        rate = work.flops / matrix_s(hw, work)[0]
        errors.append(rate / (hw.die.low_precision_tops * TERA) / share - 1.0)
    return errors


def grouped_errors(hw: Hardware, weight_bytes: float = 1.0) -> list[float]:
    """Logarithms of predicted over told reading rates of the table "grouped": few rows an expert."""
    errors = []
    for groups, rows, columns, inner, share in hw.tables.grouped:
        work = Matrix(rows, columns, inner, groups, weight_bytes)
        rate = work.weights / matrix_s(hw, work)[0]
        errors.append(float(np.log(rate / (hw.die.memory_gbps * GIGA) / share)))
    return errors


def exchange_work(hw: Hardware, column: int, message_bytes: float) -> tuple[float, float]:
    """Work in us of a token with 8 copies, and its growth with the logarithm of the ranks.

    What the table "exchange" tells less the fixed part and less the links, a line through six
    points; neither may be negative.
    """
    ranks = np.array([row[0] for row in hw.tables.exchange])
    left = []
    for row in hw.tables.exchange:
        moving = link_s(hw, row[1] * COPIES * message_bytes, int(row[0])) / MICRO
        left.append((row[column] - hw.exchange.fixed_us - moving) / row[1])
    logs = np.log(ranks)
    slope, start = np.polyfit(logs, np.array(left), 1)
    if slope < 0.0:
        return max(0.0, float(np.mean(left))), 0.0
    if start < 0.0:
        return 0.0, max(0.0, float(logs @ np.array(left) / (logs @ logs)))
    return float(start), float(slope)


def imbalance(system: System) -> float:
    """Load of the hottest die with which prefill by default is as much slower as `balance_ratio`."""
    perfect = prefill_step(system, PrefillLoad(balance="perfect")).tokens_per_s

    def distance(parameters: Sequence[float]) -> float:
        trial = replace(system, imbalance=parameters[0])
        ratio = prefill_step(trial, PrefillLoad()).tokens_per_s / perfect
        return abs(ratio - system.balance_ratio)

    (value,) = _minimum(distance, [(1.0, 3.0)])
    return float(f"{value:.{DIGITS}g}")


def copy_cores(hw: Hardware) -> float:
    """Cores h at which copying has half its full rate, n / (n + h), from the table "copying"."""
    ((few, many, ratio),) = hw.tables.copying
    return max(0.0, few * many * (ratio - 1.0) / (many - few * ratio))


def _squares(errors: Sequence[float]) -> float:
    return float(np.sum(np.square(errors)))


def _minimum(
    cost: Callable[[Sequence[float]], float], ranges: Sequence[tuple[float, float]]
) -> list[float]:
    """The least point of a smooth function: a grid around the best point, ever narrower."""
    low = np.array([r[0] for r in ranges])
    high = np.array([r[1] for r in ranges])
    centre, reach = (low + high) / 2, (high - low) / 2
    for _ in range(_ROUNDS):
        axes = [
            np.clip(np.linspace(c - r, c + r, _POINTS), a, b)
            for c, r, a, b in zip(centre, reach, low, high, strict=True)
        ]
        centre = np.array(min(product(*axes), key=cost))
        reach = reach * _SHRINK
    return [float(value) for value in centre]


def main(names: Sequence[str]) -> None:
    """Prints the fitted parameters of the named systems and of their machines."""
    for name in names:
        system = load_system(name)
        for field, value in asdict(fitted(system.machine)).items():
            print(f"{system.hardware}: {field} = {value:g}")
        if system.balance_ratio:
            print(f"{name}: imbalance = {imbalance(system):g}")


if __name__ == "__main__":
    main(sys.argv[1:])
