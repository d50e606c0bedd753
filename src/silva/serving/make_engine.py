"""An engine from the settings of `silva serve`: the same for a peer and for a colocated server."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from silva.adapters.ledger import OBJECTS
from silva.control.slo import AIM
from silva.control.state import Settings
from silva.errors import ConfigError
from silva.kernels import Backend
from silva.models.language import LanguageConfig, LanguageModel
from silva.models.language_loader import load_language_model
from silva.models.mixed_language import pack
from silva.models.tokenizer import TOKENIZER
from silva.serving.config import ServeConfig
from silva.serving.engine.engine import Engine
from silva.serving.engine.grammar import Grammars
from silva.serving.engine.kv import KVMemory, KVShape
from silva.serving.engine.listener import Listener
from silva.serving.engine.tiers import Tiers
from silva.serving.spread import numerics


def make_engine(
    config: ServeConfig,
    model: Path,
    listener: Listener,
    *,
    threads: int,
    memory: Callable[[int], memoryview] | None = None,
    load: Callable[[Path, torch.dtype], LanguageModel] | None = None,
) -> Engine:
    """The engine over the model of a directory.

    threads  of this process's arithmetic; 0: as many as torch takes by itself
    memory   gives the bytes for keys and values, such as ones that others can read
    load     gives the model of a directory; by default all of it is loaded here

    Raises ModelError, ConfigError, ServingError.
    """
    if threads:
        torch.set_num_threads(threads)
    dtype = getattr(torch, config.dtype)
    loaded = load(model, dtype) if load else load_language_model(model, dtype=dtype)
    shape = block_shape(config, loaded.config)
    blocks = shape.blocks_in(config.kv.peer_bytes)
    buffer = _had(blocks * shape.block_bytes, memory or _anonymous)
    tokenizer = (model / TOKENIZER).read_text("utf-8")
    return Engine(
        loaded,
        KVMemory(shape, blocks, buffer),
        settings_for(config, blocks, loaded.config.context, drafts=_drafts(config, loaded.config)),
        listener,
        grammars=Grammars(tokenizer, loaded.config.vocab_size, loaded.config.eos_ids),
        threads=threads or torch.get_num_threads(),
        backend=cast(Backend, config.kernels),
        numerics=numerics(config),
        tiers=_tiers(config, loaded),
    )


def _tiers(config: ServeConfig, model: LanguageModel) -> Tiers | None:
    if not config.forest:
        return None
    return Tiers(Path(config.forest) / OBJECTS, lambda t: pack(t, model), config.adapter_bytes)


def _had(size_bytes: int, memory: Callable[[int], memoryview]) -> memoryview:
    try:
        return memory(size_bytes)
    except (ConfigError, OSError, OverflowError) as error:
        what = error.what if isinstance(error, ConfigError) else f"{size_bytes} bytes cannot be had"
        remedy = "ask for less with --kv"
        raise ConfigError(what, where="serve.kv.peer_bytes", remedy=remedy) from error


def _anonymous(size_bytes: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size_bytes))


def block_shape(config: ServeConfig, model: LanguageConfig) -> KVShape:
    """What a block of this model's holds, as it is served."""
    dtype = getattr(torch, config.dtype)
    return KVShape.of(model, config.kv.block_tokens, dtype, drafts=_drafts(config, model))


def settings_for(
    config: ServeConfig, blocks: int, context_tokens: int, *, drafts: int = 0
) -> Settings:
    """The scheduler's limits; a request longer than the pool could never end."""
    return Settings(
        blocks=blocks,
        context_tokens=min(context_tokens, blocks * config.kv.block_tokens),
        block_tokens=config.kv.block_tokens,
        step_tokens=max(config.step.chunk_tokens, config.step.most_running * (1 + drafts)),
        max_running=config.step.most_running,
        target_s=config.step.tpot_target_s or None,
        aim=AIM,
        drafts=drafts,
    )


def _drafts(config: ServeConfig, model: LanguageConfig) -> int:
    return min(1, model.drafts) if config.mtp else 0
