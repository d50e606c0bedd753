from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from silva.errors import DataError, RunError
from silva.models.deepseek_config import deepseek_config
from silva.models.latent import CausalLatents
from silva.pretraining.checkpoint import FILE
from silva.pretraining.language.config import LanguageRecipe
from silva.pretraining.language.model import assemble, balance, initial
from silva.pretraining.language.train import Run, losses, pretrain

TOKENS = torch.randint(300, (4000,), generator=torch.Generator().manual_seed(1))


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_losses_are_those_of_one_sequence_after_another(recipe: LanguageRecipe) -> None:
    shape = deepseek_config(recipe.model.as_config(), "test")
    model = assemble(shape, initial(shape, 3))
    batch = TOKENS[:60].view(3, 20)
    found = losses(model, batch)
    token, draft = [], []
    for text in batch:
        positions = torch.arange(20)
        hidden = model.hidden(text, positions, CausalLatents([20]))
        token.append(F.cross_entropy(model.logits(hidden)[:-1], text[1:]))
        ahead = model.draft(hidden[:-1], text[1:], positions[:-1], CausalLatents([19]))
        draft.append(F.cross_entropy(model.logits(ahead)[:-1], text[2:]))
    torch.testing.assert_close(found.token, torch.stack(token).mean())
    torch.testing.assert_close(found.draft, torch.stack(draft).mean())


def test_it_learns_what_follows(recipe: LanguageRecipe, tmp_path: Path) -> None:
    pattern = torch.arange(7).repeat(600) + 5
    heard: list[float] = []
    recipe = replace(recipe, steps=60, warmup_steps=5, muon_lr=0.03, adamw_lr=0.03)
    pretrain(recipe, pattern, tmp_path, lambda step, loss: heard.append(loss))
    assert len(heard) == 60
    assert heard[0] == pytest.approx(math.log(300), rel=0.05)
    assert heard[-1] < 0.2 * heard[0]


def test_an_interrupted_run_ends_with_the_same_weights(
    recipe: LanguageRecipe, tmp_path: Path
) -> None:
    whole = pretrain(recipe, TOKENS, tmp_path / "whole")

    def stop(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, TOKENS, tmp_path / "cut", stop)
    steps: list[int] = []
    cut = pretrain(recipe, TOKENS, tmp_path / "cut", lambda step, loss: steps.append(step))
    assert steps == [5, 6]
    assert equal(whole.parameters, cut.parameters)
    assert [row["step"] for row in cut.curve] == [2, 4, 6]


def test_the_text_is_hashed_once_a_run(
    recipe: LanguageRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, hashed = hashlib.sha256, []
    monkeypatch.setattr(hashlib, "sha256", lambda data: hashed.append(len(data)) or real(data))
    assert len(pretrain(recipe, TOKENS, tmp_path).curve) == 3
    assert hashed == [len(TOKENS)]


def test_the_result_does_not_depend_on_the_threads(recipe: LanguageRecipe, tmp_path: Path) -> None:
    recipe = replace(recipe, steps=2, sequences=4)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(pretrain(recipe, TOKENS, tmp_path / str(threads)).parameters)
    finally:
        torch.set_num_threads(before)
    assert equal(*found)


def test_balance_helps_the_experts_with_less(recipe: LanguageRecipe) -> None:
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    bias = {name: torch.zeros(4)}
    balance(bias, {1: torch.tensor([10, 0, 5, 5])}, 0.25)
    assert bias[name].tolist() == [-0.25, 0.25, 0.0, 0.0]


def test_mistakes(recipe: LanguageRecipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="less than a sequence"):
        pretrain(recipe, TOKENS[:20], tmp_path)
    pretrain(replace(recipe, steps=2), TOKENS, tmp_path)
    with pytest.raises(RunError, match="other settings"):
        pretrain(recipe, TOKENS, tmp_path)
    with pytest.raises(RunError, match="other texts"):
        pretrain(replace(recipe, steps=2), TOKENS.flip(0), tmp_path)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(RunError, match="damaged"):
        pretrain(recipe, TOKENS, tmp_path)


def test_a_loss_that_is_no_number_ends_the_run(
    recipe: LanguageRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "step", lambda run: math.nan)
    with pytest.raises(RunError, match="lower muon_lr"):
        pretrain(recipe, TOKENS, tmp_path)
    assert not (tmp_path / FILE).exists()
