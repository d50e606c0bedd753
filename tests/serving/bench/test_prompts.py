from __future__ import annotations

from itertools import takewhile

import pytest

from silva.serving.bench.config import WorkConfig
from silva.serving.bench.nouns import Planned
from silva.serving.bench.prompts import WORDS, Prompts
from silva.serving.bench.trace import BLOCK_TOKENS

WORK = WorkConfig(prefix_tokens=32, vocabulary_low=100, vocabulary_high=200)


def made(planned: Planned, seed: int = 1) -> list[int]:
    return Prompts(WORK, seed).tokens(planned)


def common(one: list[int], other: list[int]) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def test_prompts_have_their_length_and_stay_in_the_vocabulary() -> None:
    for own in (1, 7, 2000):
        tokens = made(Planned(3, 0.0, own, 1, prefix=0))
        assert len(tokens) == 32 + own
        assert all(type(token) is int and 100 <= token < 200 for token in tokens)


def test_what_is_shared_is_the_prefix_alone() -> None:
    one, two = (Planned(n, 0.0, 40, 1, prefix=0) for n in (1, 2))
    assert 32 <= common(made(one), made(two)) < 36
    other = Planned(1, 0.0, 40, 1, prefix=1)
    assert common(made(one), made(other)) < 4
    assert made(one)[32:] == made(other)[32:] == made(Planned(1, 0.0, 40, 1))


def test_equal_blocks_hold_equal_tokens() -> None:
    one = made(Planned(1, 0.0, 2 * BLOCK_TOKENS + 50, 1, blocks=(7, 8, 9)))
    two = made(Planned(2, 0.0, 3 * BLOCK_TOKENS, 1, blocks=(7, 8, 10)))
    assert 2 * BLOCK_TOKENS <= common(one, two) < 2 * BLOCK_TOKENS + 4
    assert len(one) == 2 * BLOCK_TOKENS + 50 and len(two) == 3 * BLOCK_TOKENS


def test_tokens_beyond_the_blocks_are_the_requests_own() -> None:
    one, two = (made(Planned(n, 0.0, BLOCK_TOKENS + 90, 1, blocks=(7,))) for n in (1, 2))
    assert BLOCK_TOKENS <= common(one, two) < BLOCK_TOKENS + 4
    assert len(one) == BLOCK_TOKENS + 90
    assert made(Planned(1, 0.0, 20, 1, blocks=(7, 8))) == one[:20]


def test_the_seed_decides_and_the_order_of_asking_does_not() -> None:
    prompts, again = Prompts(WORK, 5), Prompts(WORK, 5)
    plans = [Planned(n, 0.0, 9, 1, prefix=n % 2) for n in range(6)]
    assert [prompts.tokens(p) for p in plans] == [again.tokens(p) for p in plans[::-1]][::-1]
    assert made(plans[0], seed=1) != made(plans[0], seed=2)


@pytest.mark.parametrize("index", [1, 2])
def test_the_warm_up_shares_nothing(index: int) -> None:
    assert common(made(Planned(-index, 0.0, 40, 1)), made(Planned(index, 0.0, 40, 1))) < 4


def test_text_is_a_word_a_token_and_shares_what_tokens_share() -> None:
    prompts = Prompts(WORK, 1)
    one, two = (prompts.text(Planned(n, 0.0, 10, 1, prefix=0)).split() for n in (1, 2))
    assert len(one) == 42 and one[:32] == two[:32] and one != two
    assert set(one) <= set(WORDS) and len(set(WORDS)) == len(WORDS)
