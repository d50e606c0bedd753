from __future__ import annotations

from typing import Any

import pytest

from silva.experts.board import Vote
from silva.experts.shape import GroupShape, Overlap, Pass
from silva.experts.sizes import BufferSizes
from silva.experts.splitting import ALL, Splitting, split_bit

SIZES = BufferSizes(ranks=3, local_batch=8, top_k=2, slots=2, hidden_size=8, item_bytes=4)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def splitting(overlap: Overlap, clock: Any = Clock()) -> Splitting:  # noqa: B008
    return Splitting(GroupShape(SIZES, {Pass.HIDDEN: (0,)}, 6, overlap=overlap), clock)


def votes(*tokens: int, halves: int = 1, wants: Pass = Pass.HIDDEN) -> dict[int, Vote]:
    return {
        rank: Vote(wants=wants if count else 0, tokens=count, halves=halves if count > 1 else 0)
        for rank, count in enumerate(tokens)
    }


def test_each_size_has_a_bit_of_its_own() -> None:
    assert [split_bit(Pass.HIDDEN, n) for n in (1, 2, 3, 4, 7, 8)] == [0, 1, 1, 2, 2, 3]
    assert split_bit(Pass.HIDDEN, 2**30) == 15
    assert split_bit(Pass.DRAFT, 1) == 16
    assert split_bit(Pass.DRAFT, 2**30) == 31


@pytest.mark.parametrize(
    ("given", "split"),
    [
        (votes(8, 0, 1), True),
        (votes(1, 1, 1), False),  # nobody can divide anything
        (votes(9, 2, 2), False),  # further rounds
        (votes(2, 0, 0), True),
        (votes(2, 0, 0, halves=0), False),
    ],
)
def test_all_votes_together_say_whether_a_pass_is_split(
    given: dict[int, Vote], split: bool
) -> None:
    decides = splitting("on")
    assert decides.wish() == ALL
    decides.agree(Pass.HIDDEN, given, ALL)
    assert decides.now is split
    decides.agree(Pass.HIDDEN, given, 0)
    assert not decides.now
    decides.agree(Pass.NONE, given, ALL)
    assert not decides.now


def test_tokens_for_another_pass_do_not_count() -> None:
    decides = splitting("on")
    given = votes(9, 0, 0) | {1: Vote(wants=Pass.DRAFT, tokens=2, halves=1)}
    decides.agree(Pass.DRAFT, given, 1 << split_bit(Pass.DRAFT, 2))
    assert decides.now


def test_without_a_second_lane_nothing_is_split() -> None:
    decides = splitting("off")
    assert decides.wish() == 0
    decides.agree(Pass.HIDDEN, votes(4, 4, 4), ALL)
    assert not decides.now


def test_what_is_measured_decides_of_passes_of_that_size() -> None:
    clock = Clock()
    decides = splitting("auto", clock)
    given = votes(8, 8, 8)
    for _ in range(300):
        decides.agree(Pass.HIDDEN, given, decides.wish())
        clock.now_s += 0.6 if decides.now else 1.0
        decides.finished()
    assert decides.wish() == 1 << split_bit(Pass.HIDDEN, 24)
    decides.overlap = "off"
    assert decides.wish() == 0
