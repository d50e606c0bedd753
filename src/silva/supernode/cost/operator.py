"""One operator's cost on a die: matrix products, passes over memory, and what starting them takes.

Everything grows with work and falls with rates, and nothing jumps: the schedules above rely on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from silva.supernode.hardware import MICRO, TERA, Hardware

WIDE_BYTES = 2.0
"""BF16, in which operators hand their results on."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operator of a layer as it runs by itself on its share of the die."""

    name: str
    engine: str
    """What it occupies: "matrix", "vector", "link" or "copy" (the bulk copy engine)."""
    seconds: float
    memory_s: float = 0.0
    """Of these, the time in which it draws all the memory gives."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A product [rows, inner] x [inner, columns], `groups` of them of equal size."""

    rows: float
    columns: float
    inner: float
    groups: float = 1.0
    weight_bytes: float = 1.0
    """Bytes of a weight; wide weights compute at the BF16 peak."""
    input_bytes: float = 1.0
    weights_resident: bool = True
    """False where the right operand is an activation, or counted elsewhere."""

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.rows * self.columns * self.inner * self.groups

    @property
    def weights(self) -> float:
        """Bytes of the right operand."""
        return self.columns * self.inner * self.groups * self.weight_bytes

    @property
    def activations(self) -> float:
        """Bytes of what goes in and comes out, the latter BF16."""
        each = self.inner * self.input_bytes + self.columns * WIDE_BYTES
        return self.rows * self.groups * each


def norm(first: float, second: float, exponent: float) -> float:
    """Two costs that partly overlap: their sum at exponent 1, the larger of them at infinity."""
    largest = max(first, second)
    if largest <= 0.0:
        return 0.0
    smallest = min(first, second) / largest
    return float(largest * (1.0 + smallest**exponent) ** (1.0 / exponent))


def compute_s(hw: Hardware, work: Matrix, share: float = 1.0) -> float:
    """Seconds of a product's arithmetic on `share` of the matrix cores.

    A core computes tiles of so many columns; each tile has a start worth `gemm_depth` of its depth
    (Table 10 of the paper: 79 % of the peak at K = 4,096, 83 % at 8,192, tiles of 128 x 152).
    """
    fit, peak = hw.fitted, hw.die.low_precision_tops
    if work.weight_bytes > 1.0:
        peak = hw.die.bf16_tflops
    tiles = -(-work.columns // hw.tile_columns)
    waste = tiles * hw.tile_columns / work.columns if work.columns > hw.tile_columns else 1.0
    start = 1.0 + fit.gemm_depth / work.inner
    return work.flops * waste * start / (peak * TERA * share * fit.gemm_compute)


def matrix_s(hw: Hardware, work: Matrix, share: float = 1.0) -> tuple[float, float]:
    """Seconds of a product without its start, and of these the time at the memory's full rate.

    Arithmetic and the reading of weights overlap as far as the machine's kernels do (the fitted
    norm); inputs and outputs are streamed beside them, so that they bound but do not add.
    """
    arithmetic = compute_s(hw, work, share)
    reading = work.weights / hw.memory_bps if work.weights_resident else 0.0
    memory = reading + work.activations / hw.memory_bps
    seconds = max(norm(arithmetic, reading, hw.fitted.gemm_overlap), memory)
    return seconds, min(memory, seconds)


def matrix_op(
    hw: Hardware, name: str, works: tuple[Matrix, ...], share: float = 1.0, starts: int = 1
) -> Op:
    """Products in a row as one operator with so many starts."""
    costs = [matrix_s(hw, work, share) for work in works]
    seconds = sum(cost[0] for cost in costs) + starts * hw.static.matrix_us * MICRO
    return Op(name, "matrix", seconds, sum(cost[1] for cost in costs))


def pass_op(hw: Hardware, name: str, moved_bytes: float, starts: int = 1) -> Op:
    """An elementwise operator: it reads and writes so many bytes in all, at the memory's rate."""
    moving = moved_bytes / hw.memory_bps
    return Op(name, "vector", moving + starts * hw.static.vector_us * MICRO, moving)
