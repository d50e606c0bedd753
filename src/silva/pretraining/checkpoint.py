"""The one file of an unfinished run: tensors and a few lines of JSON, replaced as a whole.

Every kind of pre-training keeps its optimisers and its settings in it in the same way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
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


def pack_optimisers(optimisers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of every optimiser as ``optimiser.NAME.INDEX.FIELD``."""
    return {
        f"optimiser.{name}.{index}.{field}": torch.as_tensor(value)
        for name, optimiser in optimisers.items()
        for index, state in optimiser.state_dict()["state"].items()
        for field, value in state.items()
    }


def restore_optimisers(
    optimisers: Mapping[str, torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `pack_optimisers` made; raises ValueError for names of another shape."""
    for name, optimiser in optimisers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimiser.{name}."):
                index, field = key.split(".")[2:]
                state.setdefault(int(index), {})[field] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state, "param_groups": groups})


def pack_settings(config: Any) -> str:
    """A recipe, which is a dataclass, as it stands in a checkpoint."""
    return json.dumps(asdict(config))


def check_settings(folder: Path, config: Any, packed: str) -> None:
    """Raises RunError where `packed` is not what `pack_settings` makes of `config`."""
    ours, theirs = json.loads(pack_settings(config)), json.loads(packed)
    if theirs == ours:
        return
    theirs = theirs if isinstance(theirs, dict) else {}
    differing = [key for key, value in ours.items() if theirs.get(key) != value]
    raise RunError(
        f"the unfinished run here has other settings ({', '.join(differing[:3]) or 'others'})",
        where=folder / FILE,
        remedy="go on with its settings, or choose another output directory",
    )
