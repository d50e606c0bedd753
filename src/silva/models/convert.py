"""Models as directories that are mapped without a copy: from GGUF files, or of another float type.

What is written is a Hugging Face directory that transformers reads too. Its tensors lie in the order
of `llama_tensors`, so that q, k, v and gate, up are one matrix each, or of `deepseek_tensors`, so
that all experts of a layer are.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from silva.errors import ModelError
from silva.models import digests, llama_tensors
from silva.models.checkpoint import open_checkpoint
from silva.models.config_fields import CONFIG, GENERATION
from silva.models.deepseek_config import DeepseekConfig
from silva.models.fields import first_line, read_json
from silva.models.gguf_model import GGUFModel, describe
from silva.models.gguf_tokenizer import tokenizer_files
from silva.models.language_config import read_language_config
from silva.models.llama_config import LlamaConfig
from silva.models.mapped import Placed, write_mapped
from silva.models.text import TEXT_FILES
from silva.models.tokenizer import LARGEST_TOKENIZER_BYTES, TOKENIZER, Tokenizer
from silva.models.weight_files import WEIGHTS

Progress = Callable[[int, int], None]
"""Called with weights done and weights in all."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def convert_gguf(path: Path, folder: Path, dtype: str, progress: Progress) -> str:
    """Write the model of a GGUF file into the empty `folder`; the digest of what was written.

    `dtype`: one of `DTYPES`; quantised weights are exact in float32 only. Raises ModelError, and
    OSError where the disk refuses.
    """
    model = describe(path)
    files = tokenizer_files(model.file.metadata, path)
    Tokenizer(files[TOKENIZER].encode(), path)  # what cannot be read must not be cached
    _write_json(folder / CONFIG, {**model.settings, "dtype": dtype})
    _write_json(folder / GENERATION, _generation(model.config))
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return _write_weights(_placed(model, dtype), model.tensor, folder, progress)


def convert_directory(source: Path, folder: Path, dtype: str, progress: Progress) -> str:
    """Write the model of a Hugging Face directory as `dtype` into the empty `folder`; the digest.

    Raises ModelError, and OSError where the disk refuses.
    """
    checkpoint, kind = open_checkpoint(source), DTYPES[dtype]
    # transformers 5's name of the type and 4's
    changed = {"dtype": dtype, "torch_dtype": dtype, **checkpoint.settings()}
    settings = {**read_json(source / CONFIG), **changed}
    # What the conversion takes away goes; a null of the source's own is another thing than no field.
    kept = {k: v for k, v in settings.items() if k not in changed or v is not None}
    _write_json(folder / CONFIG, kept)
    _write_json(folder / GENERATION, _generation(read_language_config(source)))
    for name in TEXT_FILES:
        if (source / name).is_file():
            if (source / name).stat().st_size > LARGEST_TOKENIZER_BYTES:
                raise ModelError("is too large", where=source / name)
            shutil.copyfile(source / name, folder / name)
    return _write_weights(
        checkpoint.placed(kind), lambda name: checkpoint.read(name, kind), folder, progress
    )


def needs_conversion(source: Path, dtype: str) -> bool:
    """Whether a process that loads a directory as `dtype` would copy weights. Raises ModelError."""
    return not open_checkpoint(source).is_ready(DTYPES[dtype])


def converted_size(source: Path, dtype: str) -> int:
    """Bytes of the weights that a conversion of `source`, a GGUF file or directory, would write."""
    if source.is_file():
        placed = _placed(describe(source), dtype)
    else:
        placed = open_checkpoint(source).placed(DTYPES[dtype])
    return sum(math.prod(each.shape) * each.dtype.itemsize for each in placed)


def _placed(model: GGUFModel, dtype: str) -> list[Placed]:
    shapes = llama_tensors.shapes(model.config)
    return [Placed(name, shape, DTYPES[dtype]) for name, shape in shapes.items()]


def _write_weights(
    placed: Sequence[Placed], read: Callable[[str], Tensor], folder: Path, progress: Progress
) -> str:
    dtypes = {each.name: each.dtype for each in placed}
    total, done = sum(math.prod(each.shape) for each in placed), 0
    found: dict[str, str] = {}

    def converted(name: str) -> Tensor:
        nonlocal done
        tensor = read(name).to(dtypes[name])
        found[name] = digests.tensor_digest(name, tensor)
        done += tensor.numel()
        progress(done, total)
        return tensor

    path = folder / WEIGHTS
    with path.open("wb") as file:
        write_mapped(file, placed, converted)
        file.flush()
        os.fsync(file.fileno())
    return digests.weights_digest(found)


def _generation(config: LlamaConfig | DeepseekConfig) -> dict[str, Any]:
    return {"bos_token_id": config.bos_id, "eos_token_id": list(config.eos_ids) or None}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    try:
        content = json.dumps(value, indent=2, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelError(f"cannot be written ({first_line(error)})", where=path) from None
    path.write_bytes(content + b"\n")
