from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tiny import CLASSES, backbone, make_run, random_data, same_head, settings

from silva.federation import heads
from silva.federation.classification import Classification
from silva.federation.features import ClientData
from silva.federation.heads import (
    LEAST_SHRINKAGE,
    ClassStatistics,
    agree_on_head,
    class_statistics,
    discriminant_head,
    first_head,
    shrinkage,
    statistics_bytes,
    zero_head,
)


def statistics(x: torch.Tensor, y: torch.Tensor, classes: int) -> ClassStatistics:
    sums = torch.zeros(classes, x.shape[1]).index_add_(0, y, x)
    return ClassStatistics(torch.bincount(y, minlength=classes).float(), sums, x.T @ x)


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (90,), generator=g)
    centres, shape = torch.randn(3, 6, generator=g), torch.randn(6, 6, generator=g)
    return 2 * centres[y] + torch.randn(90, 6, generator=g) @ shape, y


def test_the_head_is_that_of_linear_discriminant_analysis() -> None:
    """scikit-learn adds the logarithms of the priors, which the head takes as equal."""
    x, y = drawn()
    head = discriminant_head([statistics(x, y, 3)])
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=LEAST_SHRINKAGE).fit(
        x.numpy(), y.numpy()
    )
    bias = oracle.intercept_ - np.log(oracle.priors_)
    np.testing.assert_allclose(head.weight.numpy(), oracle.coef_, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(head.bias.numpy(), bias, rtol=1e-3, atol=1e-3)
    wanted = (x.numpy() @ oracle.coef_.T + bias).argmax(axis=1)
    assert ((x @ head.weight.T + head.bias).argmax(dim=1).numpy() == wanted).all()


@pytest.mark.parametrize("images", [20, 60, 300])
def test_few_images_shrink_the_covariance_as_scikit_learn_says(images: int) -> None:
    """Its formula leaves out the terms 2 / p, and centres by the mean of all."""
    g = torch.Generator().manual_seed(images)
    x = torch.randn(images, 200, generator=g).double() * torch.linspace(0.2, 3, 200)
    _, wanted = oas(x.numpy(), assume_centered=True)
    found = shrinkage(x.T @ x / images, images)
    assert found == pytest.approx(wanted, rel=0.02) and found > LEAST_SHRINKAGE


def test_shrinkage_has_a_least_and_nothing_known_is_the_identity() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 6, generator=g).double() * torch.linspace(0.2, 3, 6)
    assert shrinkage(x.T @ x / 2000, 2000) == LEAST_SHRINKAGE
    assert shrinkage(torch.zeros(6, 6).double(), 0) == 1.0
    assert shrinkage(torch.eye(6).double(), 50) == 1.0


def test_clients_together_are_the_pooled_data() -> None:
    x, y = drawn()
    parts = [statistics(x[a:b], y[a:b], 3) for a, b in ((0, 20), (20, 21), (21, 90))]
    pooled, together = discriminant_head([statistics(x, y, 3)]), discriminant_head(parts)
    torch.testing.assert_close(together.weight, pooled.weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.bias, pooled.bias, atol=1e-4, rtol=1e-4)


def test_a_class_that_nobody_has_is_never_preferred_by_weight() -> None:
    x, y = drawn()
    head = discriminant_head([statistics(x, y, 5)])
    assert not head.weight[3:].any()
    assert float(head.bias[3]) == float(head.bias[:3].min())
    nothing = discriminant_head([statistics(torch.zeros(0, 6), torch.zeros(0).long(), 5)])
    assert not nothing.weight.any() and not nothing.bias.any()


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
    head = first_head(run, run.founders())
    assert head.weight.shape == (len(CLASSES), 16) and not head.weight.any()
    run = make_run(tmp_path / "b")
    names = run.founders()
    pooled = [run.clients.train(n) for n in names]
    data = ClientData(torch.cat([d.pixels for d in pooled]), torch.cat([d.labels for d in pooled]))
    wanted = discriminant_head([class_statistics(run.task, data)])
    found = first_head(run, names)
    # The features hardly vary, so the last digits of the sums are magnified in the weights.
    off = (found.weight - wanted.weight).norm() / wanted.weight.norm()
    assert float(off) < 1e-2
    logits = run.task.model(data.pixels, (found.weight, found.bias))
    assert float((logits.argmax(dim=1) == data.labels).float().mean()) > 0.9


@pytest.mark.parametrize(("init", "sent"), [("zeros", 0), ("discriminant", 4 * (4 + 64 + 256))])
def test_what_the_first_head_costs_is_on_record(tmp_path, init: str, sent: int) -> None:
    run = make_run(tmp_path / "run", settings(head_init=init))
    head = agree_on_head(run, ["c-0", "c-1"])
    (row,) = run.state.record.rounds
    assert (row.stage, row.participants) == ("head", 2)
    assert row.bytes_up == 2 * sent
    assert row.bytes_down == 2 * (head.weight.nbytes + head.bias.nbytes)


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
    turns = iter([spoil, *[lambda s: s] * 2, spoil, spoil])
    monkeypatch.setattr(heads, "class_statistics", lambda *a: next(turns)(class_statistics(*a)))
    head = agree_on_head(run, ["c-0", "c-1", "c-2"])
    row = run.state.record.rounds[-1]
    assert same_head(head, wanted) and (row.participants, row.rejected) == (2, 1)
    none = agree_on_head(run, ["c-0", "c-1"])
    assert run.state.record.rounds[-1].rejected == 2 and not none.weight.any()


@pytest.mark.parametrize("classes", [1, 7])
def test_a_zero_head_prefers_nothing(classes: int) -> None:
    head = zero_head(classes, 5)
    assert head.weight.shape == (classes, 5) and not head.weight.any() and not head.bias.any()
