from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import (
    backbone,
    broken,
    random_data,
    random_head,
    random_pairs,
    same_head,
    same_pairs,
    settings,
)

from silva.adapters.subspace import mean_overlap
from silva.adapters.tiers import AdapterPath, LoraPair, Tier
from silva.federation import client
from silva.federation.classification import Classification
from silva.federation.client import Work, payload_bytes, train_client
from silva.federation.features import features_of
from silva.federation.orthogonality import Frozen
from silva.models.adapted import adaptation_of

BASE, DATA, LOCAL = backbone(), random_data(1), settings().local
TASK = Classification(BASE.model, 4)
WEIGHTS = {n: BASE.model.get_submodule(n).weight for n in BASE.model.module_names()}


def work(**changes: object) -> Work:
    plain = Work(
        client="c-0",
        merged=WEIGHTS,
        pairs=random_pairs(1),
        head=random_head(1),
        scaling=2.0,
        epochs=2,
        seed=3,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_training_lowers_the_loss_and_touches_neither_input_nor_model() -> None:
    task = work(epochs=6)
    before = {n: t.clone() for n, t in BASE.model.state_dict().items()}
    update = train_client(TASK, DATA, task, LOCAL)
    first = train_client(TASK, DATA, work(epochs=1), LOCAL)
    assert update.loss < first.loss and update.images == 10 and update.client == "c-0"
    assert same_pairs(task.pairs, random_pairs(1)) and same_head(task.head, random_head(1))
    assert all(torch.equal(before[n], t) for n, t in BASE.model.state_dict().items())
    assert all(not p.requires_grad for p in BASE.model.parameters())
    assert not any(t.requires_grad for p in update.pairs.values() for t in (p.A, p.B))


def test_the_same_work_gives_the_same_update_and_another_seed_another() -> None:
    one, other = (train_client(TASK, DATA, work(), LOCAL) for _ in range(2))
    assert same_pairs(one.pairs, other.pairs) and same_head(one.head, other.head)
    third = train_client(TASK, DATA, work(seed=4), LOCAL)
    assert not same_pairs(one.pairs, third.pairs)


def test_only_the_named_parts_are_trained() -> None:
    only_head = train_client(TASK, DATA, work(train_pairs=False), LOCAL)
    assert same_pairs(only_head.pairs, random_pairs(1))
    assert not same_head(only_head.head, random_head(1))
    only_pairs = train_client(TASK, DATA, work(train_head=False), LOCAL)
    assert same_head(only_pairs.head, random_head(1))
    assert not same_pairs(only_pairs.pairs, random_pairs(1))


def test_cached_features_give_the_head_that_full_passes_give() -> None:
    """A frozen body is run once; learning rate 0 on the pairs is the plain twin."""
    fast = train_client(TASK, DATA, work(train_pairs=False), LOCAL)
    unclipped = replace(LOCAL, lr=0.0, clip=0.0)
    plain = train_client(TASK, DATA, work(), unclipped)
    quick = train_client(TASK, DATA, work(train_pairs=False), unclipped)
    torch.testing.assert_close(plain.head.weight, quick.head.weight, atol=1e-5, rtol=1e-4)
    assert fast.images == plain.images


def test_steps_are_cut_at_the_limit() -> None:
    """Ten images in batches of 8 are two steps an epoch."""
    one = train_client(TASK, DATA, work(epochs=9, max_steps=2), LOCAL)
    other = train_client(TASK, DATA, work(epochs=1), LOCAL)
    assert same_pairs(one.pairs, other.pairs)


def test_a_rate_of_zero_changes_nothing() -> None:
    still = train_client(TASK, DATA, work(rate=0.0), LOCAL)
    assert same_pairs(still.pairs, random_pairs(1)) and same_head(still.head, random_head(1))


def test_orthogonality_lowers_the_overlap_and_hard_removes_it() -> None:
    root = {n: torch.linalg.qr(p.B)[0] for n, p in random_pairs(7).items()}
    frozen = (Frozen(root, 1.0),)
    start = {n: LoraPair(torch.zeros_like(p.B), p.A) for n, p in random_pairs(1).items()}
    found = {}
    for kind in ("none", "soft", "soft_normalised", "hard"):
        task = work(pairs=start, frozen=frozen, orthogonality=kind, epochs=8)
        update = train_client(TASK, DATA, task, LOCAL)
        found[kind] = mean_overlap({n: p.B for n, p in update.pairs.items()}, root)
    assert found["soft"] < found["none"] and found["soft_normalised"] < found["none"]
    assert found["hard"] < 1e-6


def test_merged_weights_and_branches_give_the_same_logits() -> None:
    names = ("root", "cluster", "leaf")
    path = AdapterPath(
        tuple(Tier(name, random_pairs(n), random_head(n), 0.05) for n, name in enumerate(names))
    )
    head = (path.head.weight, path.head.bias)
    merged, branches, flat = (
        BASE.model(DATA.pixels, head, adaptation_of(p, BASE.model, merged=m))
        for p, m in ((path, True), (path, False), (AdapterPath((path.flattened(),)), False))
    )
    torch.testing.assert_close(merged, branches, atol=1e-5, rtol=0)
    torch.testing.assert_close(flat, branches, atol=1e-5, rtol=0)


def test_numbers_that_are_not_finite_are_seen_wherever_they_stand() -> None:
    update = train_client(TASK, DATA, work(), LOCAL)
    assert update.finite() and not broken(update).finite()
    bias = update.head.bias.clone()
    bias[0] = float("inf")
    assert not replace(update, head=replace(update.head, bias=bias)).finite()


def test_penalty_clipping_and_projection_are_no_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def slow(seconds: float, function):
        def timed(*arguments, **named):
            now[0] += seconds
            return function(*arguments, **named)

        return timed

    monkeypatch.setattr(client.time, "perf_counter", lambda: now[0])
    places = [
        *((client, name, 1.0) for name in ("penalty", "project", "_batches")),
        (torch.nn.utils, "clip_grad_norm_", 10.0),
        (torch.Tensor, "backward", 100.0),
        (torch.optim.AdamW, "step", 1000.0),
        (BASE.model, "features", 10000.0),
    ]
    for owner, name, seconds in places:
        monkeypatch.setattr(owner, name, slow(seconds, getattr(owner, name)))
    frozen = (Frozen({n: p.B for n, p in random_pairs(7).items()}, 1.0),)
    task = work(frozen=frozen, orthogonality="hard", epochs=1)
    update = train_client(TASK, DATA, task, replace(LOCAL, batch_size=5))
    assert update.seconds_compute == 2 * 11100.0
    assert update.seconds == update.seconds_compute + 2 * 12.0 + 1.0


def test_bytes_are_those_of_pair_and_head() -> None:
    pairs, head = random_pairs(1), random_head(1)
    assert payload_bytes(pairs, head) == 4 * (4 * 2 * 16 * 2 + 4 * 16 + 4)
    assert train_client(TASK, DATA, work(), LOCAL).bytes() == payload_bytes(pairs, head)


def test_accuracy_and_loss_of_a_head() -> None:
    head = random_head(2)
    logits = BASE.model(DATA.pixels, (head.weight, head.bias))
    hits = logits.argmax(dim=1) == DATA.labels
    found = TASK.measure(DATA, WEIGHTS, head)
    assert (found.correct, found.total) == (int(hits.sum()), len(DATA))
    by_class = [float(hits[DATA.labels == c].float().mean()) for c in DATA.labels.unique()]
    assert found.balanced == pytest.approx(sum(by_class) / len(by_class))
    wanted = float(F.cross_entropy(logits, DATA.labels))
    assert TASK.mean_loss(DATA, WEIGHTS, head) == pytest.approx(wanted, rel=1e-5)
    assert features_of(BASE.model, DATA.pixels).shape == (10, 16)
