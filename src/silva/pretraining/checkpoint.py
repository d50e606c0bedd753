"""The one file of an unfinished run: tensors and a few lines of JSON, replaced as a whole.

Every kind of pre-training keeps its optimisers and its settings in it in the same way.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from silva.errors import RunError

FILE = "checkpoint.safetensors"
MODEL = "model."
"""What the names of a model's tensors begin with, beside those of optimisers."""


def make_folder(folder: Path) -> None:
    """Make the folder of a run before there is anything to lose; RunError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            f"the run cannot be kept there ({error.strerror})",
            where=folder,
            remedy="choose another --out, or mend its permissions",
        ) from error


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    optimisers: Mapping[str, torch.optim.Optimizer],
    config: Any,
    about: Mapping[str, str],
) -> None:
    """Put a run into `folder`; a crash leaves the old checkpoint or the new one.

    tensors are the model's, config is the recipe (a dataclass), about whatever else is to be known.
    """
    scratch = folder / "checkpoint.tmp"
    held = {f"{MODEL}{name}": tensor.detach() for name, tensor in tensors.items()}
    held |= _packed(optimisers)
    lines = {**about, "config": _settings(config)}
    save_file({k: v.contiguous() for k, v in held.items()}, scratch, lines)
    with scratch.open("rb") as written:
        os.fsync(written.fileno())
    scratch.replace(folder / FILE)


@contextmanager
def read_checkpoint(
    folder: Path, optimisers: Mapping[str, torch.optim.Optimizer], config: Any
) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """The `tensors` and `about` of `write_checkpoint`; after the block the optimisers are as then.

    Raises RunError where the recipe was another, and where the file is damaged, which is what any
    other error in the block means too.
    """
    try:
        with safe_open(folder / FILE, framework="pt") as opened:
            held = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about = opened.metadata() or {}
        _check_settings(folder, config, about["config"])
        yield {k.removeprefix(MODEL): v for k, v in held.items() if k.startswith(MODEL)}, about
        _restore(optimisers, held)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        cause = (str(error).split("\n")[0] or type(error).__name__)[:120]
        raise RunError(
            f"the checkpoint is damaged ({cause})",
            where=folder / FILE,
            remedy="remove it to start the run again from the beginning",
        ) from None


def _packed(optimisers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of every optimiser as ``optimiser.NAME.INDEX.FIELD``."""
    return {
        f"optimiser.{name}.{index}.{field}": torch.as_tensor(value)
        for name, optimiser in optimisers.items()
        for index, state in optimiser.state_dict()["state"].items()
        for field, value in state.items()
    }


def _restore(
    optimisers: Mapping[str, torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `_packed` made; raises ValueError for names of another shape."""
    for name, optimiser in optimisers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimiser.{name}."):
                index, field = key.split(".")[2:]
                state.setdefault(int(index), {})[field] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state, "param_groups": groups})


def _settings(config: Any) -> str:
    """A recipe as it stands in a checkpoint."""
    return json.dumps(asdict(config))


def _check_settings(folder: Path, config: Any, packed: str) -> None:
    """Raises RunError where `packed` is not what `_settings` makes of `config`."""
    ours, theirs = json.loads(_settings(config)), json.loads(packed)
    if theirs == ours:
        return
    theirs = theirs if isinstance(theirs, dict) else {}
    differing = [key for key, value in ours.items() if theirs.get(key) != value]
    raise RunError(
        f"the unfinished run here has other settings ({', '.join(differing[:3]) or 'others'})",
        where=folder / FILE,
        remedy="go on with its settings, or choose another output directory",
    )
