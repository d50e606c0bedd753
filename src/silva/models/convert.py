"""Models as directories that are mapped without a copy: from GGUF files, or of another float type.

What is written is a Hugging Face directory that transformers reads too. Its tensors lie in the order
of `llama_tensors`, so that q, k, v and gate, up are one matrix each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from silva.errors import ModelError
from silva.models import digests, llama_tensors
from silva.models.config_fields import CONFIG, GENERATION
from silva.models.fields import first_line, read_json
from silva.models.gguf_model import describe
from silva.models.gguf_tokenizer import tokenizer_files
from silva.models.language_loader import Source
from silva.models.llama_config import LlamaConfig, read_config
from silva.models.mapped import write_mapped
from silva.models.text import TEXT_FILES
from silva.models.tokenizer import LARGEST_TOKENIZER_BYTES, TOKENIZER, Tokenizer
from silva.models.weight_files import WEIGHTS

Progress = Callable[[int, int], None]
"""Called with weights done and weights in all."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class _Tensors(Protocol):
    """What both sources are here: `GGUFModel` and `Source`."""

    def tensor(self, name: str) -> Tensor: ...


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
    return _write_weights(model, model.config, folder, dtype, progress)


def convert_directory(source: Path, folder: Path, dtype: str, progress: Progress) -> str:
    """Write the model of a Hugging Face directory as `dtype` into the empty `folder`; the digest.

    Raises ModelError, and OSError where the disk refuses.
    """
    config = read_config(source)
    tensors = Source(source, config)
    named = {"dtype": dtype, "torch_dtype": dtype}  # transformers 5's name and 4's
    _write_json(folder / CONFIG, {**read_json(source / CONFIG), **named})
    _write_json(folder / GENERATION, _generation(config))
    for name in TEXT_FILES:
        if (source / name).is_file():
            if (source / name).stat().st_size > LARGEST_TOKENIZER_BYTES:
                raise ModelError("is too large", where=source / name)
            shutil.copyfile(source / name, folder / name)
    return _write_weights(tensors, config, folder, dtype, progress)


def needs_conversion(source: Path, dtype: str) -> bool:
    """Whether a directory's weights would be copied when loaded as `dtype`. Raises ModelError."""
    return Source(source, read_config(source)).dtypes != {DTYPES[dtype]}


def converted_size(source: Path, dtype: str) -> int:
    """Bytes of the weights that a conversion of `source`, a GGUF file or directory, would write."""
    config = describe(source).config if source.is_file() else read_config(source)
    return _weights(llama_tensors.shapes(config).values()) * DTYPES[dtype].itemsize


def _weights(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def _write_weights(
    source: _Tensors, config: LlamaConfig, folder: Path, dtype: str, progress: Progress
) -> str:
    shapes = llama_tensors.shapes(config)
    total, done = _weights(shapes.values()), 0
    found: dict[str, str] = {}

    def read(name: str) -> Tensor:
        nonlocal done
        tensor = source.tensor(name).to(DTYPES[dtype])
        found[name] = digests.tensor_digest(name, tensor)
        done += tensor.numel()
        progress(done, total)
        return tensor

    path = folder / WEIGHTS
    with path.open("wb") as file:
        write_mapped(file, list(shapes.items()), DTYPES[dtype], read)
        file.flush()
        os.fsync(file.fileno())
    return digests.weights_digest(found)


def _generation(config: LlamaConfig) -> dict[str, Any]:
    return {"bos_token_id": config.bos_id, "eos_token_id": list(config.eos_ids) or None}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    try:
        content = json.dumps(value, indent=2, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelError(f"cannot be written ({first_line(error)})", where=path) from None
    path.write_bytes(content + b"\n")
