"""What is made of served tokens beside those of transformers, and when a way of serving passes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import serving_tokens  # noqa: E402


def test_tokens_are_compared_up_to_the_first_tie() -> None:
    count = serving_tokens.TOKENS
    wanted = {"tokens": list(range(count)), "logprobs": [-1.0] * count, "tie": 3}
    said = {"tokens": [0, 1, 2, *[7] * (count - 3)], "logprobs": [-1.0] * count, "cached": 16}
    found = serving_tokens.compare([said], [wanted])
    assert (found["equal"], found["ties"], found["tokens_compared"]) == (1, 1, 3)
    assert serving_tokens.compare([said], [wanted | {"tie": 4}])["equal"] == 0
    off = said | {"logprobs": [-1.0, -1.0002, *[-1.0] * (count - 2)]}
    assert serving_tokens.compare([off], [wanted])["equal"] == 0


def status(*peers: tuple[str, int, int], hits: int = 0) -> dict[str, Any]:
    """Peers as (role, steps, preempted)."""
    told = [{"role": role, "steps": n, "preempted": much} for role, n, much in peers]
    return {"peers": told, "cache": {"hits": hits}}


NOTHING = serving_tokens.totals(status())
ROW = {"prompts": 8, "equal": 8, "cached_tokens": 0, **NOTHING}


def test_what_a_server_did_is_told_by_role() -> None:
    prefill, decode = ("prefill", 5, 1), ("decode", 40, 2)
    found = serving_tokens.totals(status(prefill, decode, ("cache", 0, 0), hits=7))
    steps = {"prompt_steps": 5, "decode_steps": 40}
    assert found == {"preempted": 2, **steps, "blocks_from_cache_peers": 7}
    assert serving_tokens.totals(status(("both", 9, 3)))["preempted"] == 3


@pytest.mark.parametrize(
    ("way", "what", "not_yet", "done"),
    [
        ("preempted", "preempted", {"decode_steps": 9}, {"preempted": 1}),
        ("chunked", "chunked", {"prompt_steps": 8}, {"prompt_steps": 9}),
        ("disaggregated", "handed over", {"prompt_steps": 8}, {"decode_steps": 1}),
        ("tcp", "handed over", {"prompt_steps": 8}, {"decode_steps": 1}),
        (
            "cached, own pool",
            "cached in the peer's own pool",
            {"cached_tokens": 32, "blocks_from_cache_peers": 2},
            {"cached_tokens": 48, "blocks_from_cache_peers": 2},
        ),
        (
            "cached, disk",
            "found on disk",
            {"cached_tokens": 32},
            {"cached_tokens": 32, "blocks_from_cache_peers": 2},
        ),
    ],
)
def test_a_way_that_was_not_tried_fails(
    way: str, what: str, not_yet: dict[str, int], done: dict[str, int]
) -> None:
    for row in (ROW, ROW | not_yet):
        assert serving_tokens.failure(way, row) == f"{way}: nothing was {what}"
    assert serving_tokens.failure(way, ROW | done) == ""
    assert "7 of 8 equal" in serving_tokens.failure(way, ROW | done | {"equal": 7})


def test_every_way_but_the_plain_one_has_to_be_tried() -> None:
    ways = {*serving_tokens.MODES, *serving_tokens.AGAIN.values()}
    assert ways - {"colocated"} == set(serving_tokens.TRIED)


def test_prompts_grow_from_one_token_to_the_longest() -> None:
    lengths = serving_tokens.lengths(50, 1500)
    assert (lengths[0], lengths[-1], len(lengths)) == (1, 1500, 50)
    assert lengths == sorted(lengths)
