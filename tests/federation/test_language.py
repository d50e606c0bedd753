"""The task of a language model against stock transformers, whatever goes through it at once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")
from tiny import same_pairs
from tiny_text import SETTINGS, SHAPE, WINDOW, random_hf

from silva.adapters.tiers import NO_HEAD, LoraPair
from silva.config import build
from silva.errors import ConfigError
from silva.federation import language
from silva.federation.client import Update, Work, train_client
from silva.federation.config import FederationConfig
from silva.federation.language import ClientText, LanguageModelling
from silva.models.language_loader import load_language_model
from silva.models.llama import Llama

CONFIG = build(FederationConfig, SETTINGS, "test")
TARGETS = CONFIG.adapter.targets
DRAW = torch.Generator().manual_seed(1)
DATA = ClientText(
    torch.randint(0, 424, (9, WINDOW + 1), generator=DRAW), torch.full((9,), 2 * WINDOW)
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Llama]:
    """The stock model, and silva's of the same weights."""
    stock, folder = random_hf("llama", **SHAPE), tmp_path_factory.mktemp("language")
    stock.save_pretrained(folder)
    model = load_language_model(Path(folder))
    assert isinstance(model, Llama)
    return stock, model


@pytest.fixture
def task(models: tuple[Any, Llama]) -> LanguageModelling:
    return LanguageModelling(models[1], WINDOW)


def pairs_of(task: LanguageModelling, seed: int = 2) -> dict[str, LoraPair]:
    draw = torch.Generator().manual_seed(seed)
    return {
        n: LoraPair(
            0.1 * torch.randn(w.shape[0], 2, generator=draw),
            0.1 * torch.randn(2, w.shape[1], generator=draw),
        )
        for n, w in task.base(TARGETS).items()
    }


def trained(task: LanguageModelling, data: ClientText = DATA, **changes: Any) -> Update:
    work = Work(
        client="ann",
        merged=task.base(TARGETS),
        pairs=pairs_of(task),
        head=NO_HEAD,
        scaling=2.0,
        epochs=1,
        seed=3,
    )
    return train_client(task, data, replace(work, **changes), CONFIG.local)


def test_the_figure_is_the_stock_models(models: tuple[Any, Llama], task: LanguageModelling) -> None:
    with torch.no_grad():
        found = models[0](DATA.tokens[:, :-1]).logits
    wanted = float(F.cross_entropy(found.flatten(0, 1), DATA.tokens[:, 1:].flatten()))
    score = task.measure(DATA, {}, NO_HEAD)
    assert score.total == 9 * WINDOW and score.loss / score.total == pytest.approx(wanted, rel=1e-5)
    assert score.value == pytest.approx(math.exp(wanted), rel=1e-4)
    assert score.second == pytest.approx(wanted / math.log(2) / 2, rel=1e-5)
    assert task.mean_loss(DATA, {}, NO_HEAD) == pytest.approx(wanted, rel=1e-5)


def test_training_lowers_the_loss_and_leaves_the_model_alone(
    models: tuple[Any, Llama], task: LanguageModelling
) -> None:
    before = {n: w.clone() for n, w in task.base(TARGETS).items()}
    first, last = trained(task), trained(task, epochs=6)
    assert last.loss < first.loss and last.images == 9
    assert last.head.classes == 0 and last.bytes() == sum(
        4 * (p.A.numel() + p.B.numel()) for p in last.pairs.values()
    )
    assert all(torch.equal(before[n], w) for n, w in task.base(TARGETS).items())


def test_what_goes_through_at_once_changes_memory_and_no_more(
    task: LanguageModelling, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(task)
    monkeypatch.setattr(language, "TOKENS_AT_ONCE", 1)
    assert task.at_once == 1
    parts = trained(task)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    for name, pair in whole.pairs.items():
        # Adam divides a gradient by its own size, which magnifies rounding where it is tiny.
        assert float((parts.pairs[name].B - pair.B).abs().mean()) < 1e-4
    assert same_pairs(trained(task).pairs, parts.pairs)


def test_a_rate_of_nothing_changes_nothing(task: LanguageModelling) -> None:
    assert same_pairs(trained(task, rate=0.0).pairs, pairs_of(task))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"head": "local"}, "federation.head"),
        ({"head_init": "zeros"}, "federation.head_init"),
        ({"controls": ("head_only", "local_pair")}, "federation.controls"),
    ],
)
def test_policies_for_heads_are_refused(
    task: LanguageModelling, changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(ConfigError, match="have no heads") as error:
        task.settled(replace(CONFIG, **changes))
    assert error.value.where == where


def test_the_control_of_heads_alone_is_left_out(task: LanguageModelling) -> None:
    settled = task.settled(CONFIG)
    assert settled.controls == () and task.settled(settled) == settled
    others = replace(CONFIG, controls=("local_pair",))
    assert task.settled(others) == others
