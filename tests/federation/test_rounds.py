from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import (
    broken,
    huge,
    make_run,
    partition,
    random_head,
    random_pairs,
    same_head,
    same_pairs,
    settings,
)

from silva.adapters.tiers import Head
from silva.federation.bases import FEATURES, of_feature
from silva.federation.client import Update, Work, payload_bytes
from silva.federation.config import TierConfig
from silva.federation.rounds import federated_round, judge, rate, receive, sample
from silva.federation.run import Run
from silva.federation.state import TierState

SEEN = ["c-0", "c-1", "c-2", "c-3", "c-4", "c-5"]


def start(run: Run) -> TierState:
    tier = TierState(run.fresh_pairs("root"), random_head(1))
    run.state.root = tier
    return tier


def update(client: str, seed: int = 1) -> Update:
    return Update(client, random_pairs(seed), random_head(seed), 12, 0.5, 0.0, 0.0)


def asked(run: Run, *updates: Update) -> list[Work]:
    """Work whose start is what each of `updates` sends, so that all of them are believable."""
    return [
        run.work(u.client, "root", 1, merged=run.base, pairs=u.pairs, head=u.head) for u in updates
    ]


def one_round(run: Run, tier: TierState) -> TierState:
    return federated_round(run, tier, SEEN, run.base, planned=2)


def test_a_round_changes_the_tier_and_says_what_it_cost(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    tier = start(run)
    given = {n: p.B.clone() for n, p in tier.pairs.items()}
    new = one_round(run, tier)
    row = run.state.record.rounds[-1]
    assert not same_pairs(new.pairs, tier.pairs) and not same_head(new.head, tier.head)
    assert all(torch.equal(p.B, given[n]) for n, p in tier.pairs.items())
    assert (row.stage, row.cluster, row.round) == ("root", -1, 1)
    assert (row.participants, row.rejected, row.dropped) == (6, 0, 0)
    once = payload_bytes(tier.pairs, tier.head)
    assert row.bytes_up == row.bytes_down == 6 * once
    assert row.rho == 1.0 and 0 <= row.trunc_energy < 1 and math.isfinite(row.loss)
    assert all(p.rank == 2 for p in new.pairs.values())


def test_a_round_is_the_same_whenever_it_is_run_again(tmp_path: Path) -> None:
    flags = {"participation": 0.7, "dropout": 0.3}
    runs = [make_run(tmp_path / name, settings(**flags)) for name in "ab"]
    one, other = (one_round(run, start(run)) for run in runs)
    assert same_pairs(one.pairs, other.pairs) and same_head(one.head, other.head)


@pytest.mark.parametrize(("share", "count"), [(1.0, 6), (0.5, 3), (0.34, 2), (0.001, 1)])
def test_a_seeded_share_of_the_members_takes_part(tmp_path: Path, share: float, count: int) -> None:
    run = make_run(tmp_path / "run", settings(participation=share))
    drawn = []
    for number in range(6):
        chosen = sample(run, SEEN, "root", number)
        assert len(chosen) == count == len(set(chosen)) and set(chosen) <= set(SEEN)
        assert chosen == sample(run, SEEN, "root", number)
        drawn.append(tuple(chosen))
    assert (len(set(drawn)) == 1) == (share == 1.0)


def test_lost_replies_are_dropped_at_the_asked_rate(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", settings(dropout=0.4), parts=partition(clients=300))
    names = [f"c-{n}" for n in range(300)]
    sent = [update(name) for name in names]
    works = asked(run, *sent)
    accepted, arrived = receive(run, sent, works, -1)
    assert arrived == accepted and 0.5 * 300 < len(arrived) < 0.7 * 300
    again, _ = receive(run, sent, works, -1)
    assert [u.client for u in again] == [u.client for u in accepted]
    run.state.round = 1
    later, _ = receive(run, sent, works, -1)
    assert [u.client for u in later] != [u.client for u in accepted]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_broken_numbers_are_rejected_wherever_they_stand(tmp_path: Path, value: float) -> None:
    run = make_run(tmp_path / "run")
    good, bad = update("c-0"), update("c-1", seed=2)
    works = asked(run, good, update("c-1", seed=2), update("c-2", seed=3))
    next(iter(bad.pairs.values())).A[-1, -1] = value
    head = Head(bad.head.weight, torch.full_like(bad.head.bias, value))
    worse = replace(update("c-2", seed=3), head=head)
    accepted, arrived = receive(run, [good, bad, worse], works, -1)
    assert [u.client for u in accepted] == ["c-0"] and len(arrived) == 3


def test_a_broken_update_leaves_no_trace_but_the_count(tmp_path: Path) -> None:
    def meddle(work: Work, update: Update) -> Update | None:
        if work.client == "c-1":
            return broken(update)
        return update if work.client in ("c-0", "c-2") else None

    faulty = make_run(tmp_path / "a", meddle=meddle)
    alone = make_run(tmp_path / "b")
    new = one_round(faulty, start(faulty))
    wanted = federated_round(alone, start(alone), ["c-0", "c-2"], alone.base, planned=2)
    assert same_pairs(new.pairs, wanted.pairs) and same_head(new.head, wanted.head)
    row = faulty.state.record.rounds[-1]
    assert (row.participants, row.rejected, row.dropped) == (2, 1, 3)
    assert set(faulty.state.files["ema"]) == {"c-0", "c-2"}


@pytest.mark.parametrize("policy", ["tiered", "local"])
def test_a_mean_that_is_not_finite_is_never_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setattr(Run, "believes", lambda run, update, work: update.finite())

    def meddle(work: Work, update: Update) -> Update:
        return huge(update) if work.client == "c-0" else update

    run = make_run(tmp_path / "run", settings(head=policy), meddle=meddle)
    tier = start(run)
    assert one_round(run, tier) is tier
    row = run.state.record.rounds[-1]
    assert (row.participants, row.rejected, row.trunc_energy) == (0, 6, 0.0)
    assert not run.state.files


@pytest.mark.parametrize("reply", [broken, lambda update: None])
def test_a_round_without_a_usable_update_changes_nothing(tmp_path: Path, reply) -> None:
    run = make_run(tmp_path / "run", meddle=lambda work, update: reply(update))
    tier = start(run)
    assert one_round(run, tier) is tier
    row = run.state.record.rounds[-1]
    assert row.participants == 0 and row.rejected + row.dropped == 6
    assert (row.bytes_up > 0) == (row.rejected > 0)
    assert math.isnan(row.loss) and row.bytes_down > 0
    assert "ema" not in run.state.files


def test_the_running_means_leave_the_first_rounds_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", settings(root__rounds=3, clustering__skip_rounds=2))
    tier, kept = start(run), []
    for number in range(3):
        run.state.round = number
        tier = one_round(run, tier)
        means = run.folder.get(run.state, "ema", "c-0") or {}
        kept.append({feature for feature in FEATURES if of_feature(means, feature)})
    assert kept == [set(FEATURES) - {"B_ema"}] * 2 + [set(FEATURES)]


def test_a_root_of_one_round_is_remembered_whatever_the_setting(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", settings(root__rounds=1, clustering__skip_rounds=5))
    one_round(run, start(run))
    assert len(run.state.files["ema"]) == 6


def test_samples_or_clients_count_in_the_mean(tmp_path: Path) -> None:
    few = partition(train=2)
    rich = replace(few.clients[0], train=np.r_[10:60, 90:140])
    parts = replace(few, clients=(rich, *few.clients[1:]))
    for weights in ("samples", "uniform"):
        seen: dict[str, Update] = {}

        def watch(work: Work, update: Update, seen: dict[str, Update] = seen) -> Update:
            seen[work.client] = update
            return update

        run = make_run(tmp_path / weights, settings(weights=weights), parts=parts, meddle=watch)
        head = one_round(run, start(run)).head
        counts = [seen[name].images for name in SEEN]
        assert counts == [100, 2, 2, 2, 2, 2]
        sent = np.stack([seen[name].head.weight.numpy() for name in SEEN])
        mean = np.average(sent, axis=0, weights=counts if weights == "samples" else None)
        np.testing.assert_allclose(head.weight.numpy(), mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("said", [10**12, 0, math.inf])
def test_a_client_that_lies_about_its_images_weighs_nothing(tmp_path: Path, said: float) -> None:
    def liar(work: Work, update: Update) -> Update:
        return replace(update, images=said) if work.client == "c-1" else update

    honest = [name for name in SEEN if name != "c-1"]
    lied, alone = make_run(tmp_path / "a", meddle=liar), make_run(tmp_path / "b")
    new = one_round(lied, start(lied))
    wanted = federated_round(alone, start(alone), honest, alone.base, planned=2)
    assert same_pairs(new.pairs, wanted.pairs) and same_head(new.head, wanted.head)
    row = lied.state.record.rounds[-1]
    assert (row.participants, row.rejected, row.dropped) == (5, 1, 0)


def test_replies_that_nobody_asked_for_are_rejected_and_counted(tmp_path: Path) -> None:
    run, alone = (make_run(tmp_path / name) for name in "ab")
    real = run.runtime.train

    def train(works: list[Work]) -> Iterator[Update]:
        for n, update in enumerate(real(works)):
            yield update
            if n == 0:
                yield update  # once more
                yield replace(update, client="stranger")
                yield replace(update, client="c-7")  # known, but held out

    run.runtime.train = train
    new, wanted = one_round(run, start(run)), one_round(alone, start(alone))
    assert same_pairs(new.pairs, wanted.pairs) and same_head(new.head, wanted.head)
    row = run.state.record.rounds[-1]
    assert (row.participants, row.rejected, row.dropped) == (6, 3, 0)
    assert set(run.state.files["ema"]) == set(SEEN)


def test_a_tier_stops_after_calm_rounds_in_a_row() -> None:
    rule = TierConfig(rounds=9, tau=0.1, patience=2, min_rounds=1)
    tier = TierState(random_pairs(1), random_head(1))
    stops = []
    for number, rho in enumerate([0.05, 0.5, 0.1, 0.05], start=1):
        tier = judge(tier, rho, rule, number)
        stops.append(tier.stopped)
    assert stops == [False, False, False, True]


def test_a_tier_does_not_stop_before_its_least_rounds_nor_without_a_threshold() -> None:
    tier = TierState(random_pairs(1), random_head(1), calm_rounds=7)
    rule = TierConfig(tau=0.1, patience=1, min_rounds=4)
    assert not judge(tier, 0.0, rule, 3).stopped and judge(tier, 0.0, rule, 4).stopped
    assert not judge(tier, 0.0, replace(rule, tau=0.0), 100).stopped


def test_the_learning_rate_falls_over_the_rounds_of_a_tier() -> None:
    rates = [rate("cosine", n, 10) for n in range(10)]
    assert rates[0] == 1.0 and rates[-1] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert {rate("constant", n, 10) for n in range(10)} == {rate("cosine", 0, 1)} == {1.0}


def test_a_fixed_head_is_not_touched_by_the_last_bit(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", settings(head="global"))
    tier = start(run)
    assert not same_head(one_round(run, tier).head, tier.head)
    run.state.stage = "cluster"
    new = one_round(run, tier)
    assert new.head is tier.head and not same_pairs(new.pairs, tier.pairs)


def test_clients_that_own_their_heads_go_on_from_them(tmp_path: Path) -> None:
    begun: list[tuple[int, str, Head]] = []

    def meddle(work: Work, update: Update) -> Update:
        begun.append((run.state.round, work.client, work.head))
        return update

    run = make_run(tmp_path / "run", settings(head="local"), meddle=meddle)
    tier = one_round(run, start(run))
    mine = {name: run.own(name, tier.head) for name in SEEN}
    run.state.round = 1
    one_round(run, tier)
    assert all(same_head(head, mine[c]) for number, c, head in begun if number == 1)
    assert not same_head(mine["c-0"], mine["c-1"]) and run.own("c-7", tier.head) is tier.head
