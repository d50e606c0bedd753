"""Threads of the model's arithmetic: several tasks of one thread each, side by side.

On a small model one task of two threads is slower than two tasks of one: every operator ends in a
barrier, and most operators are short. Torch lets go of the interpreter's lock inside operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def one_thread_each(workers: int) -> Iterator[Executor]:
    """A pool of `workers` threads in which every torch operator uses one thread.

    The caller's thread count comes back at the end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
