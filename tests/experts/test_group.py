from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from exchange_cases import at_once
from group_cases import EndedError, assert_same, generate, run_group, save_random

from silva.control.placement import Placement, place
from silva.errors import ConfigError, ServingError
from silva.experts import futex
from silva.experts.board import MOST_RANKS, Vote
from silva.experts.forming import check_ranks, form, room_for
from silva.experts.group import TooFewError
from silva.experts.meeting import Card, Meeting
from silva.experts.memory import OwnMemory
from silva.experts.ranked import RankedModel
from silva.experts.shape import GroupShape, Pass
from silva.experts.sizes import BufferSizes
from silva.experts.spread import Spread, load_ranked
from silva.models.deepseek_loader import load_deepseek

pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
PROMPTS = [[5, 17, 3], [80], [1, 2, 3, 4, 5, 6, 7], [44, 45], [9, 9, 9], [33], [70, 2], [11, 12]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def wanted(model: Path) -> list[Any]:
    alone = load_deepseek(model)
    return [generate(alone, prompt, 4 + n) for n, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_tokens_are_those_of_one_process_whatever_the_ranks(
    ranks: int, model: Path, wanted: list[Any], tmp_path: Path
) -> None:
    # Answers end one after the other: ranks that are done take part without tokens.
    def work(rank: int, ranked: RankedModel) -> Any:
        return [generate(ranked, PROMPTS[n], 4 + n) for n in range(rank, len(PROMPTS), ranks)]

    # More tokens in a prompt than in a round.
    found = run_group(model, Spread(ranks, local_batch=4), tmp_path / "run", work)
    for rank, answers in enumerate(found):
        for n, answer in zip(range(rank, len(PROMPTS), ranks), answers, strict=True):
            assert_same(answer, wanted[n])


def test_drafts_of_some_ranks_and_tokens_of_others_mix(tmp_path: Path) -> None:
    save_random(tmp_path / "model", num_nextn_predict_layers=1)
    alone = load_deepseek(tmp_path / "model")

    def work(rank: int, ranked: RankedModel) -> Any:
        return generate(ranked, PROMPTS[rank], 5 + rank, drafts=rank != 1)

    found = run_group(tmp_path / "model", Spread(4), tmp_path / "run", work)
    for rank, answer in enumerate(found):
        assert_same(answer, generate(alone, PROMPTS[rank], 5 + rank, drafts=rank != 1))


def test_experts_move_in_mid_generation(model: Path, wanted: list[Any], tmp_path: Path) -> None:
    spread = Spread(4, rebalance_s=0.0)
    load = np.random.default_rng(3).lognormal(0, 2, (2, 16))

    def work(rank: int, ranked: RankedModel) -> Any:
        group = ranked.group

        def between(step: int) -> None:
            if rank == 0 and step == 1:
                before = Placement(group.tables, 16)
                group.rebalance(place(load, 4, group.shape.buffers.slots, previous=before))

        first = group.tables.copy()
        answer = generate(ranked, PROMPTS[rank], 20, between)
        return answer, first, group.tables.copy(), group.moved

    found = run_group(model, spread, tmp_path / "run", work)
    alone = load_deepseek(model)
    for rank, (answer, first, tables, _) in enumerate(found):
        assert_same(answer, generate(alone, PROMPTS[rank], 20))
        assert (first == found[0][1]).all() and (tables == found[0][2]).all()
        assert (tables != first).any()
    assert sum(moved for *_, moved in found) > 0
    before = Placement(found[0][1], 16).balance(load)
    assert (Placement(found[0][2], 16).balance(load) <= before + 1e-9).all()


def test_the_load_is_watched_and_experts_follow_it(model: Path, tmp_path: Path) -> None:
    def work(rank: int, ranked: RankedModel) -> Any:
        group, answers = ranked.group, []
        tables = {group.applied: group.tables.copy()}

        def note(step: int) -> None:
            tables[group.applied] = group.tables.copy()

        for _ in range(20):
            answers.append(generate(ranked, PROMPTS[rank], 20, note))
            if (group.tables != tables[0]).any():
                break
        return answers, tables, group.moved

    # Looked at with every report: some experts of a random model are busier than others.
    found = run_group(model, Spread(4, redundant=0, rebalance_s=0.01), tmp_path / "run", work)
    alone = load_deepseek(model)
    for rank, (answers, tables, _) in enumerate(found):
        wanted = generate(alone, PROMPTS[rank], 20)
        for answer in answers:
            assert_same(answer, wanted)
        assert len(tables) > 1
        for number in set(tables) & set(found[0][1]):
            assert (tables[number] == found[0][1][number]).all()
    assert sum(moved for *_, moved in found) > 0


def test_too_few_ranks_are_an_error_on_all_of_them_at_once(model: Path, tmp_path: Path) -> None:
    def work(rank: int, ranked: RankedModel) -> Any:
        def between(step: int) -> None:
            if rank > 1 and step == 2:
                raise EndedError

        with pytest.raises(TooFewError, match="2 ranks are left, too few for 16 experts"):
            generate(ranked, PROMPTS[rank], 8, between)
        group = ranked.group
        first = group.number
        # Once more, for one may have seen the others die after the other had; then nobody owes.
        with pytest.raises(TooFewError):
            group.take_part()
        return first, sorted(group.alive()), group.sleep()

    found = run_group(model, Spread(4, redundant=0), tmp_path / "run", work)
    assert found[0] == found[1] and found[0][1:] == ([0, 1], True)
    assert found[2:] == [None, None]


def test_a_rank_without_the_others_says_who_is_missing(model: Path, tmp_path: Path) -> None:
    meeting = Meeting(tmp_path, 3)
    board = OwnMemory(1, 4096)
    meeting.show(Card(board.member, board.member))
    ended = replace(board.member, rank=2, token=bytes(16))  # a process that is another one now
    meeting.show(Card(ended, ended))
    shape = GroupShape(BufferSizes(3, 4, 4, 8, 40, 4), {Pass.HIDDEN: (1,)}, 16)
    with pytest.raises(ServingError, match=r"rank 0 has no group: ranks \[2\] are missing"):
        form(shape, 0, meeting, lambda layer, ids: pytest.fail("too early"), limit_s=0.1)
    meeting.show(Card(replace(board.member, rank=2), replace(board.member, rank=2)))
    with pytest.raises(ServingError, match="have not let it in"):
        form(shape, 0, meeting, lambda layer, ids: pytest.fail("too early"), limit_s=0.1)


def test_ranks_that_load_for_long_are_not_taken_for_dead(model: Path, tmp_path: Path) -> None:
    meeting = Meeting(tmp_path, 2)

    def run(rank: int) -> Any:
        ranked = load_ranked(model, rank, Spread(2), meeting, patience_s=0.5)
        time.sleep(1.5 * rank)
        with closing(ranked.group):
            return ranked.group.turn(Pass.NONE), sorted(ranked.group.alive())

    assert at_once(2, run) == [(Pass.NONE, [0, 1])] * 2


def test_int8_is_near(model: Path, wanted: list[Any], tmp_path: Path) -> None:
    def work(rank: int, ranked: RankedModel) -> Any:
        return generate(ranked, PROMPTS[rank], 1)[1][0]

    found = run_group(model, Spread(4, wire="int8"), tmp_path / "run", work)
    for rank, logits in enumerate(found):
        exact = wanted[rank][1][0]
        assert not torch.equal(logits, exact)
        assert float((logits - exact).norm() / exact.norm()) < 0.03


def test_ranks_that_do_not_fit_the_experts_are_refused() -> None:
    for experts, ranks, what in (
        (16, 32, "32 ranks for 16 experts"),
        (16, 3, "do not divide"),
        (0, 2, "no experts"),
        (4 * MOST_RANKS, 2 * MOST_RANKS, "do not divide"),
    ):
        with pytest.raises(ConfigError, match=what):
            check_ranks(experts, ranks)
    for experts, ranks in ((16, 16), (16, 1), (0, 1), (16, 8)):
        check_ranks(experts, ranks)


@pytest.mark.parametrize(
    ("ranks", "redundant", "room"), [(1, 1, 16), (2, 0, 16), (4, 0, 6), (8, 1, 3)]
)
def test_one_rank_can_be_lost(ranks: int, redundant: int, room: int) -> None:
    assert room_for(16, ranks, redundant) == room
    assert room * max(1, ranks - 1) >= 16


def test_a_vote_is_read_as_it_was_written() -> None:
    vote = Vote(1, 2**63 + 5, 3, 2**32 - 1, 5, 6, 7, 8, 9)
    assert Vote.of(vote.words()) == vote
