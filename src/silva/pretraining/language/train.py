"""Training of a language model from scratch on one machine, resumable from its last checkpoint.

Every step draws its sequences from a generator seeded by (seed, step) alone, so a run that was
interrupted ends with the same weights. The loss is the cross entropy of the next token plus a share
of that of the token after next, which the draft module predicts (arXiv 2412.19437, section 2.2).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from silva.errors import DataError, RunError
from silva.models import deepseek_tensors
from silva.models.deepseek import Deepseek
from silva.models.deepseek_config import DeepseekConfig, deepseek_config
from silva.models.deepseek_tensors import CORRECTION
from silva.models.latent import CausalLatents
from silva.models.threads import one_thread_each
from silva.pretraining.checkpoint import FILE, make_folder, read_checkpoint, write_checkpoint
from silva.pretraining.language.config import LanguageRecipe
from silva.pretraining.language.model import CountedExperts, assemble, balance, initial
from silva.pretraining.muon import Muon

CHUNK = 2048
"""Tokens whose gradient one thread calculates at a time."""

OnStep = Callable[[int, float], None]


@dataclass(frozen=True)
class Losses:
    """Mean cross entropy (nats) of the next token and of the one after it."""

    token: Tensor
    draft: Tensor


def losses(model: Deepseek, sequences: Tensor) -> Losses:
    """Of int64 [sequences, length]; nothing is known before the first token of each."""
    n, length = sequences.shape
    inner = length - 1
    attend = CausalLatents([inner] * n)
    positions = torch.arange(inner).repeat(n)
    hidden = model.hidden(sequences[:, :-1].flatten(), positions, attend)
    token = F.cross_entropy(model.logits(hidden), sequences[:, 1:].flatten())
    drafted = CausalLatents([inner - 1] * n)
    seen = hidden.view(n, inner, -1)[:, :-1].flatten(0, 1)
    positions = torch.arange(inner - 1).repeat(n)
    ahead = model.draft(seen, sequences[:, 1:-1].flatten(), positions, drafted)
    return Losses(token, F.cross_entropy(model.logits(ahead), sequences[:, 2:].flatten()))


class Run:
    """All that changes while training: parameters, optimisers, the curve."""

    def __init__(self, config: LanguageRecipe, tokens: Tensor, pool: Executor) -> None:
        """`tokens`: int64, the whole training text. Raises DataError for less than a sequence."""
        if len(tokens) <= config.length:
            raise DataError(
                f"{len(tokens)} tokens are less than a sequence of {config.length}",
                remedy="give more text, or a smaller length",
            )
        self.config, self.tokens, self.pool = config, tokens, pool
        self.shape: DeepseekConfig = deepseek_config(config.model.as_config(), "the recipe")
        self.parameters = initial(self.shape, config.seed)
        self.trained = [n for n in self.parameters if not n.endswith(CORRECTION)]
        for name in self.trained:
            self.parameters[name].requires_grad_(True)
        matrices = [n for n in self.trained if self._is_matrix(n)]
        rest = [n for n in self.trained if not self._is_matrix(n)]
        self.optimisers = {
            "muon": Muon(
                [self.parameters[n] for n in matrices],
                lr=config.muon_lr,
                weight_decay=config.weight_decay,
                pool=pool,
            ),
            "adamw": torch.optim.AdamW(
                [self.parameters[n] for n in rest],
                lr=config.adamw_lr,
                betas=(0.9, 0.95),
                weight_decay=config.weight_decay,
            ),
        }
        self.rates = {"muon": config.muon_lr, "adamw": config.adamw_lr}
        self.curve: list[dict[str, float]] = []
        self.done = 0

    def _is_matrix(self, name: str) -> bool:
        """Whether a parameter is a matrix, or a stack of them, of a layer."""
        return self.parameters[name].ndim >= 2 and name != deepseek_tensors.EMBEDDING

    def step(self) -> float:
        """Train one step; the loss of the next token."""
        config = self.config
        for name, optimiser in self.optimisers.items():
            optimiser.param_groups[0]["lr"] = self.rates[name] * config.rate(self.done)
        loss, counts = self._backward(self._sequences(self.done))
        leaves = [self.parameters[n] for n in self.trained]
        if config.clip > 0:
            torch.nn.utils.clip_grad_norm_(leaves, config.clip)
        for optimiser in self.optimisers.values():
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            balance(self.parameters, counts, config.balance)
        self.done += 1
        return loss

    def _sequences(self, step: int) -> Tensor:
        """int64 [sequences, length + 1], from anywhere in the text."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        last = len(self.tokens) - config.length
        starts = torch.randint(last, (config.sequences,), generator=generator)
        return self.tokens[starts[:, None] + torch.arange(config.length + 1)]

    def _backward(self, sequences: Tensor) -> tuple[float, dict[int, Tensor]]:
        """Leave the gradient of the mean loss in the parameters; that loss, and tokens by expert.

        Chunks run side by side, a thread each, and are summed in their order: the result does not
        depend on the number of threads.
        """
        leaves = [self.parameters[n] for n in self.trained]

        def chunk(part: Tensor) -> tuple[float, tuple[Tensor, ...], dict[int, Tensor]]:
            model = assemble(self.shape, self.parameters)
            found = losses(model, part)
            share = len(part) / len(sequences)
            total = share * (found.token + self.config.draft_weight * found.draft)
            gradients = torch.autograd.grad(total, leaves)
            exchange = model.exchange
            assert isinstance(exchange, CountedExperts)
            return share * float(found.token.detach()), gradients, exchange.counts

        parts = sequences.split(max(1, CHUNK // sequences.shape[1]))
        done = list(self.pool.map(chunk, parts))
        for leaf, *gradients in zip(leaves, *(g for _, g, _ in done), strict=True):
            leaf.grad = torch.stack(gradients).sum(dim=0)
        counts = {n: torch.stack([c[n] for _, _, c in done]).sum(dim=0) for n in done[0][2]}
        return sum(loss for loss, _, _ in done), counts

    @cached_property
    def _digest(self) -> str:
        """SHA-256 of the training text, whose tokens are numbered by a tokenizer of that very text."""
        return hashlib.sha256(self.tokens.numpy().data).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the state after a whole step."""
        about = {"curve": json.dumps(self.curve), "done": str(self.done), "text": self._digest}
        write_checkpoint(folder, self.parameters, self.optimisers, self.config, about)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises RunError for a damaged one, or one of another run."""
        with read_checkpoint(folder, self.optimisers, self.config) as (weights, about):
            if about["text"] != self._digest:
                raise RunError(
                    "the unfinished run here was of other texts",
                    where=folder / FILE,
                    remedy="give it those texts, or choose another output directory",
                )
            self.curve, self.done = json.loads(about["curve"]), int(about["done"])
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(weights[name])


@dataclass(frozen=True)
class Trained:
    """A trained model, and the curve of its run."""

    shape: DeepseekConfig
    parameters: dict[str, Tensor]
    curve: list[dict[str, float]]


def pretrain(
    config: LanguageRecipe,
    tokens: Tensor,
    folder: Path,
    on_step: OnStep = lambda step, loss: None,
) -> Trained:
    """Train a model from scratch, or go on from the checkpoint in `folder`.

    `on_step` hears the number of every step, from 1, and its loss; what it raises ends the run,
    which the next call continues from the last checkpoint. Raises ModelError for an impossible
    shape, DataError, and RunError for a damaged or foreign checkpoint or a loss that is not finite.
    """
    with one_thread_each(torch.get_num_threads()) as pool:
        run = Run(config, tokens, pool)
        make_folder(folder)
        if (folder / FILE).exists():
            run.load(folder)
        started, recent = time.perf_counter(), []
        while run.done < config.steps:
            loss = run.step()
            if not math.isfinite(loss):
                raise RunError(
                    f"the loss is {loss} in step {run.done}",
                    remedy="start again with a lower muon_lr and adamw_lr",
                )
            recent.append(loss)
            on_step(run.done, loss)
            if run.done % config.save_every == 0 or run.done == config.steps:
                seconds, started = time.perf_counter() - started, time.perf_counter()
                mean = sum(recent) / len(recent)
                run.curve.append({"step": run.done, "loss": mean, "seconds": seconds})
                recent = []
                run.save(folder)
    frozen = {name: tensor.detach() for name, tensor in run.parameters.items()}
    return Trained(run.shape, frozen, run.curve)
