"""From a folder of texts to a model directory: tokens, training, measurements, files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from silva.errors import DataError
from silva.models.deepseek_tensors import type_of
from silva.pretraining.language.config import LanguageRecipe
from silva.pretraining.language.corpus import Corpus, read_corpus
from silva.pretraining.language.evaluate import bits_per_byte, expert_loads, measure_drafts
from silva.pretraining.language.model import assemble
from silva.pretraining.language.train import OnStep, pretrain
from silva.pretraining.language.write import DTYPE, write_model, write_record

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 32, 64, 64
"""Held-out beginnings whose answers measure the draft module."""


def make_language_model(
    config: LanguageRecipe, texts: Path, out: Path, on_step: OnStep = lambda step, loss: None
) -> dict[str, Any]:
    """Train by `config` on `texts`, write the model directory `out`; what was measured of it.

    The unfinished run lies in OUT.run, from where the same call goes on. Measured is the model as
    written, with rounded weights. Raises what `read_corpus` and `pretrain` raise.
    """
    corpus = read_corpus(texts, config.model.vocab_size, config.held_out)
    prompts = held_out_prompts(corpus)
    state = out.with_name(out.name + ".run")
    trained = pretrain(config, corpus.train, state, on_step)
    rounded = {n: t.to(type_of(n, DTYPE)).float() for n, t in trained.parameters.items()}
    model = assemble(trained.shape, rounded)
    drafts = measure_drafts(model, prompts, NEW_TOKENS)
    measured = {
        "parameters": sum(t.numel() for t in trained.parameters.values()),
        "training_tokens": config.steps * config.sequences * config.length,
        "text_tokens": len(corpus.train),
        "bits_per_byte": bits_per_byte(model, corpus.held_out, corpus.held_out_bytes),
        "drafts": asdict(drafts),
        "expert_loads": expert_loads(model, corpus.held_out),
        "curve": trained.curve,
    }
    write_record(out, config, measured)
    write_model(out, config, trained, corpus.tokenizer)
    for left in state.glob("checkpoint.*"):
        left.unlink()
    state.rmdir()
    return measured


def held_out_prompts(corpus: Corpus) -> Tensor:
    """The beginnings of held-out sections, int64 [up to PROMPTS, PROMPT_TOKENS].

    Raises DataError where no section is long enough.
    """
    long = [section for section in corpus.held_out if len(section) > PROMPT_TOKENS]
    if not long:
        raise DataError(
            f"no held-out section has {PROMPT_TOKENS} tokens", remedy="give more or longer texts"
        )
    return torch.stack([section[:PROMPT_TOKENS] for section in long[:PROMPTS]])
