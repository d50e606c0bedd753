from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from silva.errors import ServingError
from silva.experts.waiting import await_all


class Words:
    """Flags by address: the numbers that they hold, and what happens before each look at them."""

    def __init__(self, held: dict[int, int], *before: Callable[[dict[int, int]], None]) -> None:
        self._held, self._before = held, list(before)

    def post(self, address: int, words: Sequence[int]) -> None:
        self._held[address] = words[0]

    def missing(self, addresses: Sequence[int], number: int, seconds: float) -> list[int]:
        if self._before:
            self._before.pop(0)(self._held)
        return [n for n, address in enumerate(addresses) if self._held[address] != number]


def calm(held: dict[int, int]) -> None:
    """Nothing happens."""


def come(*addresses: int) -> Callable[[dict[int, int]], None]:
    return lambda held: held.update(dict.fromkeys(addresses, 7))


def gone_on(late: Sequence[int]) -> None:
    raise ServingError(f"{list(late)} have gone on")


def wait(words: Words, check: Callable[[Sequence[int]], None]) -> set[int]:
    ranks = {1: 10, 2: 20}
    return await_all(words, ranks, 7, alive=lambda rank: rank != 2, patience_s=60.0, check=check)


def test_what_a_rank_wrote_before_it_went_on_counts() -> None:
    assert wait(Words({10: 6, 20: 7}, calm, come(10)), gone_on) == set()


def test_who_has_gone_on_without_writing_ends_the_waiting() -> None:
    with pytest.raises(ServingError, match=r"\[1\] have gone on"):
        wait(Words({10: 6, 20: 6}, calm, come(20), calm), gone_on)


def test_what_a_rank_wrote_before_it_died_counts() -> None:
    assert wait(Words({10: 7, 20: 6}, calm, come(20)), lambda late: None) == set()
    assert wait(Words({10: 7, 20: 6}), lambda late: None) == {2}
