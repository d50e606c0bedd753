"""What a trained language model is worth on text it has not seen.

Bits per byte do not depend on the tokenizer. The draft module is measured as a server would use it:
on answers that the model itself gives, where repetition makes it look better than it is, so the
share of repetition stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from silva.models.deepseek import Deepseek
from silva.models.latent import CausalLatents
from silva.pretraining.language.model import CountedExperts

NGRAM = 4
"""Tokens in a row that count as repeated when they stood in the answer before."""


@dataclass(frozen=True)
class Drafts:
    """How often the draft module was right, and how much of the text was said before."""

    tokens: int
    accepted: float
    """Share of drafts that are the token which the model itself chooses."""
    repeated: float
    """Share of the answers' runs of NGRAM tokens that occurred earlier in the same answer."""


@torch.inference_mode()
def bits_per_byte(model: Deepseek, sections: Sequence[Tensor], size_bytes: int) -> float:
    """Of held-out sections, each int64 [tokens] with its two special tokens."""
    nats = 0.0
    context = model.config.context
    for section in sections:
        # Only the first token of a section is given: pieces share the token at which they meet.
        for start in range(0, len(section) - 1, context):
            piece = section[start : start + context + 1]
            logits = model.logits(_hidden(model, piece[None, :-1]))
            nats += float(F.cross_entropy(logits, piece[1:], reduction="sum"))
    return nats / math.log(2) / size_bytes


@torch.inference_mode()
def measure_drafts(model: Deepseek, prompts: Tensor, new_tokens: int) -> Drafts:
    """Greedy answers to prompts, int64 [prompts, tokens], and the draft of each of their tokens."""
    text, right, drafted = prompts, 0, 0
    wished: Tensor | None = None
    for _ in range(new_tokens):
        n, length = text.shape
        hidden = _hidden(model, text).view(n, length, -1)
        chosen = model.logits(hidden[:, -1]).argmax(-1)
        if wished is not None:
            right, drafted = right + int((wished == chosen).sum()), drafted + n
        following = torch.cat((text[:, 1:], chosen[:, None]), dim=1)
        ahead = model.draft(
            hidden.flatten(0, 1),
            following.flatten(),
            torch.arange(length).repeat(n),
            CausalLatents([length] * n),
        )
        wished = model.logits(ahead.view(n, length, -1)[:, -1]).argmax(-1)
        text = torch.cat((text, chosen[:, None]), dim=1)
    answers = text[:, prompts.shape[1] :].tolist()
    repeated = [repetition(answer) for answer in answers]
    return Drafts(drafted, right / max(drafted, 1), sum(repeated) / len(repeated))


def repetition(tokens: Sequence[int]) -> float:
    """Share of the runs of NGRAM tokens that occurred before in `tokens`."""
    runs = [tuple(tokens[n : n + NGRAM]) for n in range(len(tokens) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


@torch.inference_mode()
def expert_loads(model: Deepseek, sections: Sequence[Tensor]) -> dict[int, list[float]]:
    """Share of a layer's work that each expert has on held-out text, by layer; sums are one."""
    exchange = model.exchange
    assert isinstance(exchange, CountedExperts)
    for counts in exchange.counts.values():
        counts.zero_()
    for section in sections:
        for piece in section.split(model.config.context):
            _hidden(model, piece[None])
    loads = exchange.counts.items()
    return {n: (c / c.sum()).tolist() for n, c in loads if n < model.config.layers}


def _hidden(model: Deepseek, text: Tensor) -> Tensor:
    """Hidden states [texts * tokens, hidden_size] of int64 [texts, tokens]."""
    n, length = text.shape
    positions = torch.arange(length).repeat(n)
    return model.hidden(text.flatten(), positions, CausalLatents([length] * n))
