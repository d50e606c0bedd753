"""Files of a run's state: JSON that is replaced whole, and tensors that carry a checksum."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from silva.adapters.files import sync
from silva.errors import RunError


def write_json(path: Path, data: Any) -> None:
    """Replace `path` by `data` as JSON, as `replace_text` does."""
    replace_text(path, json.dumps(data))


def replace_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, whole or not at all, and on the disk before returning."""
    scratch = path.with_suffix(".tmp")
    with scratch.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(path)
    sync(path.parent)


def canonical(content: Mapping[str, Any]) -> str:
    """JSON content as text, the same before it is written and after it is read."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes, sorted by name."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(f"\n{name} {list(tensors[name].shape)}\n".encode())
        state.update(tensors[name].contiguous().numpy().tobytes())
    return state.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], digest: str) -> None:
    # Tiers may share a tensor (clusters start from one draw), which the format refuses.
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        save_file(own, path, metadata={"sha256": digest})
    except (OSError, SafetensorError) as error:
        raise refused(error, path) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Inverse of `write_tensors`; ValueError when the content is not what was written."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if (file.metadata() or {}).get("sha256") != digest_of(tensors):
            raise ValueError(f"{path.name}: its checksum does not match")
    return tensors


def refused(error: Exception, where: Path) -> RunError:
    """What a full disk or a folder without permission means to the user."""
    reason = getattr(error, "strerror", None) or str(error)
    return RunError(
        f"the run's state cannot be written ({reason})",
        where=where,
        remedy="free space or mend the permissions; go on with --resume where there is a run",
    )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; the system ends that however this one ends.

    Raises RunError where another one works there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait until it has ended"
            raise RunError("another process works on it", where=folder, remedy=remedy) from None
        yield
    finally:
        os.close(descriptor)
