"""One federated round of one group: send the tier, let clients train, aggregate, judge the change."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from torch import Tensor

from silva.federation.aggregate import mean_head, product_svd, relative_change, shares
from silva.federation.bases import updated_means
from silva.federation.client import Update, Work, payload_bytes
from silva.federation.config import TierConfig
from silva.federation.orthogonality import Frozen
from silva.federation.record import Round
from silva.federation.run import Run
from silva.federation.seeds import generator
from silva.federation.state import TierState, pack_head


def federated_round(
    run: Run,
    tier: TierState,
    members: Sequence[str],
    merged: Mapping[str, Tensor],
    *,
    planned: int,
    cluster: int = -1,
    frozen: tuple[Frozen, ...] = (),
) -> TierState:
    """Train one round with `members` and return the group's new tier; records what it cost.

    merged: weights of base and frozen tiers. A round in which no update arrives changes nothing, nor
    does one whose mean is not finite: its replies count as rejected.
    """
    started, state, config = time.perf_counter(), run.state, run.config
    number = state.round + 1
    chosen = sample(run, members, state.stage, state.round, cluster)
    works = [
        run.work(
            name,
            state.stage,
            number,
            merged=merged,
            pairs=tier.pairs,
            head=run.own(name, tier.head),
            frozen=frozen,
            rate=rate(config.local.schedule, state.round, planned),
            train_head=config.head != "global" or state.stage == "root",
        )
        for name in chosen
    ]
    accepted, arrived = receive(run, run.runtime.train(works), works, cluster)
    new, energy = aggregate(run, tier, accepted) if accepted else (tier, 0.0)
    if not _finite(new):
        new, energy, accepted = tier, 0.0, []
    keep(run, accepted, tier)
    rho = relative_change(new.pairs, tier.pairs) if accepted else 0.0
    spent = cost(
        run,
        works,
        arrived,
        accepted,
        started,
        number=state.total_rounds + 1,
        cluster=cluster,
        lanes=run.lanes,
    )
    state.record.rounds.append(replace(spent, rho=rho, trunc_energy=energy))
    return judge(new, rho, getattr(config, state.stage), number) if accepted else tier


def sample(
    run: Run, members: Sequence[str], stage: str, number: int, cluster: int = -1
) -> list[str]:
    """Clients of round `number` (from 0): a seeded share `participation` of the members, or one."""
    share = run.config.participation
    if share >= 1.0:
        return list(members)
    draw = generator(run.seed, "sample", stage, number, cluster)
    count = max(1, round(share * len(members)))
    return sorted(draw.choice(members, size=count, replace=False).tolist())


def rounds_worked(run: Run, members: Sequence[str], stage: str, cluster: int = -1) -> Counter[str]:
    """In how many rounds of a stage that is over each member was asked to train, replies lost or not.

    Drawn again from the seed, so that no checkpoint needs to hold it.
    """
    group = [r for r in run.state.record.rounds if (r.stage, r.cluster) == (stage, cluster)]
    drawn = (sample(run, members, stage, number, cluster) for number in range(len(group)))
    return Counter(chain.from_iterable(drawn))


def receive(
    run: Run, updates: Iterable[Update], works: Sequence[Work], cluster: int
) -> tuple[list[Update], list[Update]]:
    """Accepted updates and all that arrived: lost replies are in neither; not in the first is what is
    not believable, what nobody asked for, and all but a client's first reply."""
    sent = {work.client: work for work in works}
    lost = generator(run.seed, "dropout", run.state.stage, run.state.round, cluster)
    drops = {n for n in sent if lost.random() < run.config.dropout}
    arrived = [u for u in updates if u.client not in drops]
    return believed(run, arrived, works), arrived


def believed(run: Run, arrived: Sequence[Update], works: Sequence[Work]) -> list[Update]:
    """Of what arrived the first reply to each of `works`, where it is believable."""
    waiting = {work.client: work for work in works}
    first = [(u, waiting.pop(u.client)) for u in arrived if u.client in waiting]
    return [update for update, work in first if run.believes(update, work)]


def cost(
    run: Run,
    works: Sequence[Work],
    arrived: Sequence[Update],
    accepted: Sequence[Update],
    started: float,
    *,
    number: int,
    cluster: int = -1,
    lanes: int = 1,
) -> Round:
    """What came of `works` in the stage of `run`, and what it cost since `started` (perf_counter).

    number is the round's on record, lanes how many of the works were done side by side.
    """
    images = sum(u.images for u in accepted)
    answered = {u.client for u in arrived} & {work.client for work in works}
    return Round(
        stage=run.state.stage,
        cluster=cluster,
        round=number,
        participants=len(accepted),
        rejected=len(arrived) - len(accepted),
        dropped=len(works) - len(answered),
        loss=sum(u.loss * u.images for u in accepted) / images if images else math.nan,
        rho=0.0,
        trunc_energy=0.0,
        bytes_up=sum(u.bytes() for u in arrived),
        bytes_down=sum(payload_bytes(work.pairs, work.head) for work in works),
        seconds=time.perf_counter() - started,
        seconds_compute=sum(u.seconds_compute for u in accepted) / lanes,
    )


def remember_bases(run: Run, updates: Sequence[Update], tier: TierState) -> None:
    """Fold each client's factors into its running means; in the first rounds B spans noise."""
    config = run.config.clustering
    skipped = min(config.skip_rounds, max(run.config.root.rounds - 1, 0))
    spans = run.state.round >= skipped
    for update in updates:
        before = run.folder.get(run.state, "ema", update.client)
        means = updated_means(before, update.pairs, tier.pairs, config.ema, subspaces=spans)
        run.folder.put(run.state, "ema", update.client, means)


def aggregate(run: Run, tier: TierState, updates: Sequence[Update]) -> tuple[TierState, float]:
    """Product-space aggregation of the pairs and the mean of the heads; mean truncated energy."""
    config, weights = run.config, shares([u.images for u in updates], run.config.weights)
    pairs, lost = {}, 0.0
    for name in tier.pairs:
        result = product_svd(
            [u.pairs[name] for u in updates],
            weights,
            config.adapter.rank,
            method=config.aggregation,
            split=config.split,
        )
        pairs[name] = result.pair
        lost += result.trunc_energy / len(tier.pairs)
    # A mean of equal heads would differ from them in the last bit.
    fixed = config.head == "global" and run.state.stage != "root"
    head = tier.head if fixed else mean_head([u.head for u in updates], weights)
    return replace(tier, pairs=pairs, head=head), lost


def keep(run: Run, updates: Sequence[Update], tier: TierState) -> None:
    """Put on disk what is kept of each client: running means in the root stage, heads it owns."""
    if run.state.stage == "root":
        remember_bases(run, updates, tier)
    if run.config.head == "local":
        for update in updates:
            run.folder.put(run.state, "head", update.client, pack_head(update.head))


def _finite(tier: TierState) -> bool:
    factors = [t for p in tier.pairs.values() for t in (p.A, p.B)]
    return all(bool(t.isfinite().all()) for t in (*factors, tier.head.weight, tier.head.bias))


def judge(tier: TierState, rho: float, rule: TierConfig, number: int) -> TierState:
    """Stop rule of a tier: rho <= tau for `patience` rounds in a row, not before `min_rounds`."""
    calm = tier.calm_rounds + 1 if rho <= rule.tau else 0
    stopped = rule.tau > 0 and calm >= rule.patience and number >= rule.min_rounds
    return replace(tier, calm_rounds=calm, stopped=stopped)


def rate(schedule: str, number: int, planned: int) -> float:
    """Share of the learning rate in round `number` (from 0) of `planned`: cosine to a tenth."""
    if schedule == "constant" or planned <= 1:
        return 1.0
    return 0.1 + 0.45 * (1 + math.cos(math.pi * number / (planned - 1)))
