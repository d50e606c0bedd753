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
def flags_missing(words: list[int], number: int, seconds: float) -> list[int]: ...
def flags_post(address: int, words: list[int]) -> None: ...
def exchange_send(
    bases: NDArray[np.uint64],
    sizes: tuple[int, ...],
    number: int,
    topic: int,
    placement: int,
    x: int,
    experts: NDArray[np.int64],
    held: NDArray[np.int64],
    replicas: NDArray[np.int64],
    answers: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None: ...
def exchange_gather(
    memory: int,
    sizes: tuple[int, ...],
    ranks: list[int],
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
    out: int,
) -> None: ...
def exchange_answer(
    bases: NDArray[np.uint64],
    sizes: tuple[int, ...],
    number: int,
    ranks: list[int],
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
    made: int,
) -> None: ...
def exchange_combine(
    memory: int,
    sizes: tuple[int, ...],
    answers: NDArray[np.int64],
    weights: NDArray[np.float32],
    out: int,
) -> None: ...
