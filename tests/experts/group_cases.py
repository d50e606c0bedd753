"""Groups of ranks as threads of this process, and what a model of one process would say."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import torch
from deepseek_tiny import TINY
from exchange_cases import at_once
from safetensors.torch import save_file
from torch import Tensor

from silva.errors import ServingError
from silva.experts.group import RankGroup
from silva.experts.meeting import Meeting
from silva.experts.ranked import RankedModel
from silva.experts.spread import Spread, load_ranked
from silva.models import deepseek_tensors
from silva.models.deepseek_config import deepseek_config
from silva.models.latent import LatentHeads, attend_latents

PATIENCE_S = 100.0
"""Ranks here end without having to be waited for; a slow machine should not look like that."""
TIE = 1e-4
"""Of two logits that are so near either may come out first."""


def save_random(folder: Path, **changes: Any) -> Path:
    """A directory with a model of 16 experts in each of two layers, and of whatever `changes` say."""
    folder.mkdir()
    raw = {**TINY, "model_type": "deepseek_v3", **changes}
    source = torch.Generator().manual_seed(0)
    shapes = deepseek_tensors.shapes(deepseek_config(raw, folder))
    tensors = {name: torch.randn(shape, generator=source) * 0.15 for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


class Kept:
    """A `LatentAttend` of one sequence, written by position: what is computed again is replaced."""

    def __init__(self) -> None:
        self.at = 0
        self._latents: dict[int, Tensor] = {}

    def __call__(self, layer: int, q: Tensor, latent: Tensor, heads: LatentHeads) -> Tensor:
        kept = self._latents.setdefault(layer, torch.zeros(64, latent.shape[1]))
        kept[self.at : self.at + len(latent)] = latent
        return attend_latents(q, kept[: self.at + len(latent)], heads, "auto")


def generate(
    model: Any,
    prompt: Sequence[int],
    count: int,
    between: Callable[[int], object] = lambda step: None,
    *,
    drafts: bool = False,
) -> tuple[list[int], list[Tensor]]:
    """Greedy tokens after a prompt, and the logits they were chosen from; drafts are computed too,
    for every second step, and their logits are among them.
    """
    kept, tokens, done, logits = Kept(), list(prompt), 0, []
    with torch.inference_mode():
        for step in range(count):
            new, kept.at = tokens[done:], done
            positions = torch.arange(done, len(tokens))
            hidden = model.hidden(torch.tensor(new), positions, kept)
            logits.append(model.logits(hidden[-1:])[0])
            tokens.append(int(logits[-1].argmax()))
            done += len(new)
            if drafts and step % 2 == 0:
                kept.at = done - len(new)
                following = torch.tensor(tokens[kept.at + 1 :])
                drafted = model.draft(hidden, following, positions, kept)
                logits.append(model.logits(drafted[-1:])[0])
            between(step)
    return tokens[len(prompt) :], logits


class EndedError(Exception):
    """Raised by the work of a rank whose process ends here."""


def run_group(
    model: Path, spread: Spread, folder: Path, work: Callable[[int, RankedModel], Any]
) -> list[Any]:
    """`work` on the model of each rank, all at once; who is done takes part until all are."""
    busy, gone = set(range(spread.ranks)), set[int]()
    news = [threading.Event() for _ in busy]
    folder.mkdir()

    def run(rank: int) -> Any:
        try:
            meeting = Meeting(folder, spread.ranks)
            given = {"news": news[rank].set, "patience_s": PATIENCE_S}
            ranked = load_ranked(model, rank, spread, meeting, **given)
            watch(ranked.group, gone)
            with closing(ranked.group):
                return take_part(rank, ranked)
        finally:
            gone.add(rank)
            done(rank)

    def take_part(rank: int, ranked: RankedModel) -> Any:
        try:
            result = work(rank, ranked)
        except EndedError:
            return None
        done(rank)
        while busy:
            news[rank].clear()
            if busy and ranked.group.sleep():
                news[rank].wait(30)
            elif busy:
                # The others may end first.
                with suppress(ServingError):
                    ranked.group.take_part()
        return result

    def done(rank: int) -> None:
        busy.discard(rank)
        for event in news:
            event.set()

    return at_once(spread.ranks, run)


def watch(group: RankGroup, gone: set[int]) -> None:
    """Let ranks that are threads of this process end as processes do: those in `gone` have."""
    for memories in (group._watched, *(lane._peers for lane in group.exchange.lanes)):
        for rank, memory in memories.items():
            memory.alive = lambda rank=rank: rank not in gone


def assert_same(
    found: tuple[list[int], list[Tensor]], wanted: tuple[list[int], list[Tensor]]
) -> None:
    """The same tokens, up to the first whose two best logits are a tie."""
    assert len(found[0]) == len(wanted[0])
    for mine, theirs in zip(found[1], wanted[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
        best = theirs.topk(2).values
        if float(best[0] - best[1]) < TIE:
            return
        assert int(mine.argmax()) == int(theirs.argmax())
