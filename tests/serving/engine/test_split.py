"""An engine whose model shares experts and splits each step: the answers are those of whole steps."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from deepseek_cases import save_drafting
from engine_world import CONTEXT, GREEDY, World, tokens_of

from silva.experts import futex
from silva.experts.meeting import Meeting
from silva.experts.spread import Spread, load_ranked
from silva.models.language import LanguageModel
from silva.models.language_loader import load_language_model

PROMPTS = {f"p{n}": tokens_of(n, n, 89) for n in (1, 2, 5, 16, 31)}


def said(model: LanguageModel, drafts: int) -> dict[str, list[int]]:
    world = World(model, drafts=drafts, step_tokens=24, max_running=8)
    for name, prompt in PROMPTS.items():
        world.ask(name, prompt, replace(GREEDY, max_tokens=8))
    world.run()
    return world.tokens


@pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
@pytest.mark.parametrize("drafts", [0, 1])
def test_answers_of_split_steps_are_those_of_whole_ones(drafts: int, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_drafting(folder, max_position_embeddings=CONTEXT, eos_token_id=None)
    ranked = load_ranked(folder, 0, Spread(1, overlap="on"), Meeting(tmp_path, 1))
    split: list[bool] = []
    finished = ranked.group.splitting.finished

    def note() -> None:
        split.append(ranked.group.splitting.now)
        finished()

    ranked.group.splitting.finished = note  # type: ignore[method-assign]
    with closing(ranked.group):
        # Seeds of this model have no ties among these tokens.
        assert said(ranked, drafts) == said(load_language_model(folder), drafts)
    assert split.count(True) > len(split) // 2
