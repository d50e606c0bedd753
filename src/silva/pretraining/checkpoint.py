"""The one file of an unfinished run: tensors and a few lines of JSON, replaced as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from silva.errors import RunError

FILE = "checkpoint.safetensors"


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
    """Put tensors and metadata into `folder`; a crash leaves the old checkpoint or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / "checkpoint.tmp"
    save_file({k: v.contiguous() for k, v in tensors.items()}, scratch, about)
    with scratch.open("rb") as written:
        os.fsync(written.fileno())
    scratch.replace(folder / FILE)


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write_checkpoint` wrote. Raises RunError when the file is damaged."""
    try:
        with safe_open(folder / FILE, framework="pt") as opened:
            names = opened.keys()
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise damaged(folder, error) from None


def damaged(folder: Path, error: Exception) -> RunError:
    """The error for a checkpoint that cannot be continued."""
    cause = (str(error).split("\n")[0] or type(error).__name__)[:120]
    return RunError(
        f"the checkpoint is damaged ({cause})",
        where=folder / FILE,
        remedy="remove it to start the run again from the beginning",
    )
