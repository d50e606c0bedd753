from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from silva.models.threads import one_thread_each


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_tasks_have_one_torch_thread_and_the_caller_gets_its_own_back() -> None:
    with one_thread_each(2) as pool:
        inside = list(pool.map(lambda _: torch.get_num_threads(), range(6)))
    assert inside == [1] * 6
    assert torch.get_num_threads() == 3


def test_as_many_tasks_as_workers_run_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=60)
    with one_thread_each(2) as pool:
        arrived = list(pool.map(lambda _: meeting.wait(), range(2)))
    assert sorted(arrived) == [0, 1]


def test_the_thread_count_comes_back_after_an_error() -> None:
    def fail(_: int) -> None:
        raise ValueError("in a task")

    with pytest.raises(ValueError, match="in a task"), one_thread_each(2) as pool:
        list(pool.map(fail, range(3)))
    assert torch.get_num_threads() == 3


def test_results_come_in_the_order_of_the_tasks() -> None:
    with one_thread_each(3) as pool:
        assert list(pool.map(lambda n: n * n, range(20))) == [n * n for n in range(20)]
