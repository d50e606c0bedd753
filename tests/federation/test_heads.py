from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CLASSES, backbone, make_run, random_data, same_head, settings

from silva.adapters.label_priors import LabelPriors, even
from silva.federation import heads
from silva.federation.calibration import FOLDS, TEMPERATURES, cooled, surprise
from silva.federation.classification import Classification
from silva.federation.discriminants import discriminant_head, statistics_bytes
from silva.federation.features import ClientData
from silva.federation.heads import (
    agree_on_head,
    class_statistics,
    lone_first_head,
    zero_head,
)
from silva.federation.labels import class_counts, estimate


def test_statistics_are_those_of_the_base_models_features() -> None:
    base, data = backbone(), random_data(1)
    found = class_statistics(Classification(base.model, 4), data)
    features = base.model.features(data.pixels)
    assert found.counts.tolist() == torch.bincount(data.labels, minlength=4).tolist()
    sums, gram = found.sums.double(), found.gram.double()
    exact = features.double()
    torch.testing.assert_close(sums.sum(dim=0), exact.sum(dim=0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gram, exact.T @ exact, atol=1e-4, rtol=1e-4)
    sent = (found.counts, found.sums, found.gram)
    assert statistics_bytes(4, features.shape[1]) == sum(t.nbytes for t in sent)


def test_the_first_head_as_configured(tmp_path) -> None:
    run = make_run(tmp_path / "a", settings(head_init="zeros"))
    for head in (agree_on_head(run, run.founders()), lone_first_head(run, "c-0")):
        assert head.weight.shape == (len(CLASSES), 16) and not head.weight.any()
    run = make_run(tmp_path / "b")
    names = run.founders()
    pooled = [run.clients.train(n) for n in names]
    data = ClientData(torch.cat([d.pixels for d in pooled]), torch.cat([d.labels for d in pooled]))
    wanted = discriminant_head([class_statistics(run.task, data)])
    found = agree_on_head(run, names)
    # The features hardly vary, so the last digits of the sums are magnified in the weights.
    direction = found.weight * (wanted.weight.norm() / found.weight.norm())
    assert float((direction - wanted.weight).norm() / wanted.weight.norm()) < 1e-2
    logits = run.task.model(data.pixels, (found.weight, found.bias))
    assert float((logits.argmax(dim=1) == data.labels).float().mean()) > 0.9


def cross_entropy(run, names, head, t: float, prior_of) -> float:
    """The same number as `surprise`, from torch's own loss of the head as it would be."""
    total = 0.0
    for name in names:
        data = run.clients.train(name)
        logits = run.task.features(data) @ cooled(head, t).weight.T + cooled(head, t).bias
        scores = logits.double() + torch.from_numpy(prior_of(name)).log()
        total += float(torch.nn.functional.cross_entropy(scores, data.labels, reduction="sum"))
    return total


def test_clients_choose_the_temperature_of_a_head_that_has_not_seen_them(tmp_path) -> None:
    """With as many clients as folds each is judged by the head of all the others."""
    run = make_run(tmp_path)
    names = run.founders()[:FOLDS]
    reads, said = run.task.reads, np.zeros(len(TEMPERATURES))
    assert reads is not None
    parts = {n: class_statistics(reads, run.clients.train(n)) for n in names}
    counts = {n: class_counts(reads, run.clients.train(n)) for n in names}
    priors = estimate(np.array(list(counts.values())), [])
    for name in names:
        head = discriminant_head([parts[n] for n in names if n != name])
        for k, t in enumerate(TEMPERATURES):
            said[k] += cross_entropy(run, [name], head, t, lambda n: priors.alone(counts[n]))
    wanted = cooled(discriminant_head(list(parts.values())), TEMPERATURES[int(said.argmin())])
    found = agree_on_head(run, names)
    torch.testing.assert_close(found.weight, wanted.weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.bias, wanted.bias, rtol=1e-3, atol=1e-3)


def test_a_client_alone_calibrates_by_its_own_images(tmp_path) -> None:
    run = make_run(tmp_path)
    data = run.clients.train("c-0")
    raw = discriminant_head([class_statistics(run.task, data)])
    found = lone_first_head(run, "c-0")
    ratio = float(raw.weight.norm() / found.weight.norm())
    assert min(abs(ratio - t) for t in TEMPERATURES) < 1e-3 * ratio
    assert same_head(found, lone_first_head(run, "c-0"))
    # The prior that its labels are taken to have has a say in it, once there is one.
    run.state.record.labels = LabelPriors({}, 1e4)
    assert same_head(lone_first_head(run, "c-0"), found)


def test_only_images_of_classes_that_a_head_knows_are_judged() -> None:
    head = zero_head(3, 5)
    features, labels = torch.randn(6, 5), torch.tensor([0, 0, 1, 2, 2, 2])
    known = torch.tensor([True, True, False])
    found = surprise(head, features, labels, even(3), known)
    torch.testing.assert_close(found, torch.full_like(found, 3 * float(np.log(3))))


@pytest.mark.parametrize(("init", "sent"), [("zeros", 0), ("discriminant", 4 * (4 + 64 + 256))])
def test_what_the_first_head_costs_is_on_record(tmp_path, init: str, sent: int) -> None:
    """Statistics up, the head down; between them another head down, and what it is worth up."""
    run = make_run(tmp_path / "run", settings(head_init=init))
    head = agree_on_head(run, ["c-0", "c-1"])
    (row,) = run.state.record.rounds
    assert (row.stage, row.participants) == ("head", 2)
    times, told = (2, 4 * len(TEMPERATURES)) if sent else (1, 0)
    assert row.bytes_up == 2 * (sent + told)
    assert row.bytes_down == 2 * times * (head.weight.nbytes + head.bias.nbytes)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: replace(s, gram=s.gram * float("nan")),
        lambda s: replace(s, sums=s.sums + float("inf")),
        lambda s: replace(s, gram=s.gram + 1e20),
        lambda s: replace(s, sums=s.sums * 1e6),
        lambda s: replace(s, counts=s.counts + 1e20),
        lambda s: replace(s, counts=s.counts - s.counts.max()),
    ],
)
def test_statistics_that_no_images_give_are_rejected_and_counted(
    tmp_path, monkeypatch: pytest.MonkeyPatch, spoil
) -> None:
    run, alone = make_run(tmp_path / "run"), make_run(tmp_path / "alone")
    wanted = agree_on_head(alone, ["c-1", "c-2"])
    assert alone.state.record.rounds[-1].rejected == 0
    turns = iter([spoil, *[lambda s: s] * 2, spoil, spoil])  # one a client and call
    monkeypatch.setattr(heads, "class_statistics", lambda *a: next(turns)(class_statistics(*a)))
    head = agree_on_head(run, ["c-0", "c-1", "c-2"])
    row = run.state.record.rounds[-1]
    assert same_head(head, wanted) and (row.participants, row.rejected) == (2, 1)
    none = agree_on_head(run, ["c-0", "c-1"])
    assert run.state.record.rounds[-1].rejected == 2 and not none.weight.any()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e30, -1e30])
def test_one_client_does_not_decide_the_temperature_with_what_no_images_say(
    tmp_path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    """Without it the others decide, each fold still judged by a head of all others' statistics."""
    run, spoilt = make_run(tmp_path / "run"), make_run(tmp_path / "spoilt")
    names = run.founders()
    silent = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
    turns: list[int] = []

    def first(other: torch.Tensor):
        turns.clear()

        def said(*given) -> torch.Tensor:
            turns.append(1)
            return other if len(turns) == 1 else surprise(*given)

        return said

    monkeypatch.setattr(heads, "surprise", first(silent))
    wanted = agree_on_head(run, names)
    assert run.state.record.rounds[-1].rejected == 0
    monkeypatch.setattr(heads, "surprise", first(torch.full_like(silent, wrong)))
    found, row = agree_on_head(spoilt, names), spoilt.state.record.rounds[-1]
    assert same_head(found, wanted)
    assert (row.participants, row.rejected) == (len(names) - 1, 1)


@pytest.mark.parametrize("classes", [1, 7])
def test_a_zero_head_prefers_nothing(classes: int) -> None:
    head = zero_head(classes, 5)
    assert head.weight.shape == (classes, 5) and not head.weight.any() and not head.bias.any()
