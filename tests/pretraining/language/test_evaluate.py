from __future__ import annotations

import math

import pytest
import torch

from silva.models.deepseek_config import deepseek_config
from silva.pretraining.language.config import LanguageRecipe
from silva.pretraining.language.evaluate import (
    bits_per_byte,
    expert_loads,
    measure_drafts,
    repetition,
)
from silva.pretraining.language.model import assemble, initial


def test_a_model_that_knows_nothing_pays_for_every_token(recipe: LanguageRecipe) -> None:
    shape = deepseek_config(recipe.model.as_config(), "test")
    parameters = initial(shape, 0)
    parameters["model.embed_tokens.weight"].zero_()
    sections = [torch.arange(50), torch.arange(200)]
    size = 1000
    expected = (49 + 199) * math.log2(300) / size  # the first token of a section is given
    assert bits_per_byte(assemble(shape, parameters), sections, size) == pytest.approx(expected)


def test_drafts_of_a_model_that_always_says_the_same_are_right(recipe: LanguageRecipe) -> None:
    shape = deepseek_config(recipe.model.as_config(), "test")
    parameters = initial(shape, 0)
    parameters["model.embed_tokens.weight"].zero_()
    found = measure_drafts(assemble(shape, parameters), torch.ones(3, 5, dtype=torch.int64), 9)
    assert (found.tokens, found.accepted) == (3 * 8, 1.0)
    assert found.repeated == pytest.approx(5 / 6)  # 6 runs of 4 tokens, all alike


def test_repetition() -> None:
    assert repetition([1, 2, 3, 4, 5, 6]) == 0.0
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([1, 2]) == 0.0


def test_loads_count_every_choice(recipe: LanguageRecipe) -> None:
    shape = deepseek_config(recipe.model.as_config(), "test")
    parameters = initial(shape, 0)
    bias = parameters["model.layers.1.mlp.gate.e_score_correction_bias"]
    bias[2] = 100.0
    loads = expert_loads(assemble(shape, parameters), [torch.arange(40)])
    assert list(loads) == [1]  # layer 0 is dense, layer 2 the draft module's
    assert sum(loads[1]) == pytest.approx(1.0)
    assert loads[1][2] == pytest.approx(0.5)  # every token's, of the two that each has
