import numpy as np
from numpy.typing import NDArray

def projector_overlap(bases: NDArray[np.float32], out: NDArray[np.float64]) -> None: ...
def store_kv(
    k: int,
    v: int,
    keys: int,
    values: int,
    bfloat16: bool,
    sizes: tuple[int, ...],
    slots: NDArray[np.int64],
) -> None: ...
def paged_attention(
    out: int,
    q: int,
    keys: int,
    values: int,
    bfloat16: bool,
    sizes: tuple[int, ...],
    table: NDArray[np.int32],
    starts: NDArray[np.int32],
    contexts: NDArray[np.int32],
    scale: float,
    threads: int,
) -> None: ...
