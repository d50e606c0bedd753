"""Digest of a model directory's weights, computed once and remembered as long as the files stand.

Hashing reads every byte, seconds for a model of some gigabytes. What was computed lies in the cache
folder, beside size, time and inode of the files it was computed from, and counts only for these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from silva.errors import ModelError
from silva.models.cache_folder import cache_folder
from silva.models.fields import read_json

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_RECORD_BYTES = 1 << 20


def tensor_digest(name: str, tensor: Tensor) -> str:
    """SHA-256 of one tensor's type, shape and bytes. Raises ModelError for NaN and infinities."""
    import torch

    # torch has no isfinite of one-byte floats.
    finite = torch.isfinite(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
    if not bool(finite.all()):
        raise ModelError(f"{name} holds NaN or infinite values")
    state = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
    state.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def weights_digest(tensors: Mapping[str, str]) -> str:
    """SHA-256 of all tensors from name -> `tensor_digest`: the same however files are cut."""
    return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest()


def model_digest(config: str, weights: str) -> str:
    """What a model is: digest of its shape and of its weights."""
    return hashlib.sha256(f"{config} {weights}".encode()).hexdigest()


def of_files(files: Iterable[Path], compute: Callable[[], str]) -> str:
    """The weights' digest of these files: the one that is remembered, else what `compute` gives."""
    listed = list(files)
    known = remembered(listed)
    if known is not None:
        return known
    before: list[list[object]] = []
    with contextlib.suppress(OSError):
        before = _state(listed)
    digest = compute()
    with contextlib.suppress(OSError):
        # what was replaced meanwhile has another digest
        if _state(listed) == before:
            remember(listed, digest)
    return digest


def remembered(files: Iterable[Path]) -> str | None:
    """The weights' digest of these files, if it was computed when they were as they are now."""
    listed = list(files)
    try:
        record = read_json(_place(listed), LARGEST_RECORD_BYTES)
        digest = record.get("digest")
        if record.get("files") == _state(listed) and isinstance(digest, str):
            return digest
    except (ModelError, OSError):
        pass
    return None


def remember(files: Iterable[Path], digest: str) -> None:
    """Keep a digest for `remembered`. Where the cache folder cannot be written nothing happens."""
    listed = list(files)
    with contextlib.suppress(OSError):
        place = _place(listed)
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_name(f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}")
        scratch.write_text(json.dumps({"files": _state(listed), "digest": digest}))
        scratch.replace(place)


def _place(files: list[Path]) -> Path:
    key = hashlib.sha256("\n".join(str(f.resolve()) for f in files).encode()).hexdigest()
    return cache_folder() / "digests" / f"{key[:32]}.json"


def _state(files: list[Path]) -> list[list[object]]:
    return [
        [str(f.resolve()), s.st_size, s.st_mtime_ns, s.st_ino] for f in files for s in [f.stat()]
    ]
