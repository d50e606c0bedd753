"""Two microbatches of a pass overlap across ranks: the tokens are those of one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from group_cases import EndedError, assert_same, generate, run_group, save_random
from overlap_cases import Noted, generate_many

from silva.control.placement import Placement, place
from silva.experts import futex
from silva.experts.ranked import RankedModel
from silva.experts.shape import Overlap
from silva.experts.spread import Spread
from silva.models.deepseek_loader import load_deepseek

pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
PROMPTS = [[5, 17, 3], [80], [1, 2, 3, 4], [44, 45], [9, 9, 9], [33], [70, 2], [11, 12]]
OF_RANKS = [PROMPTS[:5], [], PROMPTS[5:6], PROMPTS[6:]]
"""Some ranks cannot divide what they have, one has nothing."""
COUNT = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def wanted(model: Path) -> dict[tuple[int, ...], Any]:
    alone = load_deepseek(model)
    return {tuple(prompt): generate(alone, prompt, COUNT) for prompt in PROMPTS}


def check(found: list[Any], wanted: dict[tuple[int, ...], Any]) -> None:
    """What ranks generated is what one process does."""
    for prompts, answers in zip(OF_RANKS, found, strict=False):
        for prompt, answer in zip(prompts, answers or [], strict=False):
            assert_same(answer, wanted[tuple(prompt)])


@pytest.mark.parametrize("overlap", ["on", "off"])
@pytest.mark.parametrize(("ranks", "redundant"), [(1, 0), (2, 0), (4, 0), (4, 3)])
def test_tokens_are_the_same_with_and_without(
    ranks: int, redundant: int, overlap: Overlap, model: Path, wanted: Any, tmp_path: Path
) -> None:
    def work(rank: int, ranked: RankedModel) -> Any:
        noted = Noted(ranked)
        return generate_many(ranked, OF_RANKS[rank], COUNT), noted.split

    spread = Spread(ranks, redundant, overlap=overlap)
    found = run_group(model, spread, tmp_path / "run", work)
    check([answers for answers, _ in found], wanted)
    for _, split in found:
        assert split and set(split) == {overlap == "on"}


def test_steps_that_do_not_go_in_one_round_are_not_split(
    model: Path, wanted: Any, tmp_path: Path
) -> None:
    def work(rank: int, ranked: RankedModel) -> Any:
        noted = Noted(ranked)
        return generate_many(ranked, OF_RANKS[rank], COUNT), noted.split

    # 13 tokens of prompts, then one of each sequence.
    found = run_group(model, Spread(4, local_batch=6, overlap="on"), tmp_path / "run", work)
    check([answers for answers, _ in found], wanted)
    assert found[0][1] == [False] + [True] * (COUNT - 1)


def test_drafts_of_some_ranks_and_tokens_of_others_mix(tmp_path: Path) -> None:
    save_random(tmp_path / "model", num_nextn_predict_layers=1)
    alone = load_deepseek(tmp_path / "model")

    def work(rank: int, ranked: RankedModel) -> Any:
        noted = Noted(ranked)
        found = generate_many(ranked, OF_RANKS[rank], COUNT, drafts=rank != 3)
        return found, noted.split

    found = run_group(tmp_path / "model", Spread(4, overlap="on"), tmp_path / "run", work)
    for rank, (answers, _) in enumerate(found):
        for prompt, answer in zip(OF_RANKS[rank], answers, strict=True):
            assert_same(answer, generate(alone, prompt, COUNT, drafts=rank != 3))
    assert found[0][1].count(True) == COUNT + COUNT // 2


def test_experts_move_between_split_passes(model: Path, tmp_path: Path) -> None:
    load, count = np.random.default_rng(3).lognormal(0, 2, (2, 16)), 20

    def work(rank: int, ranked: RankedModel) -> Any:
        group, noted = ranked.group, Noted(ranked)

        def between(step: int) -> None:
            if rank == 0 and step == 1:
                before = Placement(group.tables, 16)
                group.rebalance(place(load, 4, group.shape.buffers.slots, previous=before))

        first = group.tables.copy()
        answers = generate_many(ranked, OF_RANKS[rank], count, between)
        return answers, (group.tables != first).any(), noted.split

    spread = Spread(4, rebalance_s=0.0, overlap="on")
    found = run_group(model, spread, tmp_path / "run", work)
    alone = load_deepseek(model)
    for rank, (answers, moved, split) in enumerate(found):
        assert not OF_RANKS[rank] or (moved and all(split))
        for prompt, answer in zip(OF_RANKS[rank], answers, strict=True):
            assert_same(answer, generate(alone, prompt, count))


@pytest.mark.parametrize("victim", [0, 3], ids=["the one that leads", "another"])
@pytest.mark.parametrize("sent", [False, True], ids=["one half sent", "both halves sent"])
def test_a_rank_dies_while_two_halves_are_under_way(
    victim: int, sent: bool, model: Path, wanted: Any, tmp_path: Path
) -> None:
    def work(rank: int, ranked: RankedModel) -> Any:
        if rank == victim:
            second = cast(Any, ranked.group.exchange.lanes[1])
            begin, left = second.begin, [5]

            def dies(*given: Any) -> Any:
                left[0] -= 1
                if left[0] and not sent:
                    return begin(*given)
                begun = begin(*given) if sent else None
                if not left[0]:
                    raise EndedError
                return begun

            second.begin = dies
        noted = Noted(ranked)
        answers = generate_many(ranked, OF_RANKS[rank], COUNT)
        return answers, noted.split, ranked.repeated, sorted(ranked.group.alive())

    spread = Spread(4, redundant=0, overlap="on")
    found = run_group(model, spread, tmp_path / "run", work)
    assert found[victim] is None
    others = [rank for rank in range(4) if rank != victim]
    check([each and each[0] for each in found], wanted)
    for rank in others:
        # One that has nothing to do is done before.
        assert not OF_RANKS[rank] or found[rank][3] == others
    assert sum(found[rank][2] for rank in others) > 0


def test_it_may_be_left_to_what_was_measured(
    model: Path, wanted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trials as soon as there is something to compare with. Whatever they find, a pass is of one form
    # on all ranks, and the tokens are the same.
    monkeypatch.setattr("silva.control.overlap.SHARE", 1.0)

    def work(rank: int, ranked: RankedModel) -> Any:
        noted = Noted(ranked)
        found = [generate_many(ranked, OF_RANKS[rank or 3], COUNT) for _ in range(3)]
        return found[-1], noted.split

    found = run_group(model, Spread(2), tmp_path / "run", work)
    for prompt, answer in zip(OF_RANKS[3], found[0][0], strict=True):
        assert_same(answer, wanted[tuple(prompt)])
    assert set(found[0][1]) == {True, False}
