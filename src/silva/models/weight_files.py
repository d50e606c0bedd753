"""Which files of a Hugging Face directory hold the weights, and whether they fit `config.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from silva.errors import ModelError
from silva.models.fields import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_SHARDS = 1000


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory, one or the shards of its index."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
            raise ModelError(
                "only pickled weights here, which could run code when opened",
                where=folder,
                remedy="convert them once: open the model with transformers on a machine you can "
                "lose and call save_pretrained, which writes model.safetensors",
            )
        raise ModelError(
            f"no {WEIGHTS} here", where=folder, remedy="fetch the model directory again"
        )
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise ModelError("weight_map is not a table of file names", where=index)
    shards = sorted(set(table.values()))
    if not 1 <= len(shards) <= LARGEST_SHARDS:
        raise ModelError(f"{len(shards)} shards, not 1 to {LARGEST_SHARDS}", where=index)
    for shard in shards:
        if not shard.endswith(".safetensors") or set(shard) & set("/\\:\0"):
            raise ModelError(f"{shard[:100]!r} is no safetensors file of this folder", where=index)
        if not (folder / shard).is_file():
            raise ModelError(
                f"shard {shard} is missing", where=folder, remedy="fetch the model directory again"
            )
    return [folder / shard for shard in shards]


def compare_shapes(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    folder: Path,
    on_disk: Callable[[str], str] = str,
) -> None:
    """Raise ModelError unless the weights have the tensors of the configuration, and no others.

    `on_disk` turns a name of ours into the file's own, for the message.
    """
    remedy = "weights and config.json must come from the same model"
    missing = [on_disk(n) for n in sorted(expected.keys() - found.keys())]
    unexpected = sorted(found.keys() - expected.keys())
    for what, which in (("missing", missing), ("unexpected", unexpected)):
        if which:
            line = f"{len(which)} {what} tensors: {_few(which)}"
            raise ModelError(line, where=folder, remedy=remedy)
    for name, shape in sorted(expected.items()):
        if found[name] != shape:
            line = f"{on_disk(name)} is {list(found[name])}, not {list(shape)}"
            raise ModelError(line, where=folder, remedy=remedy)


def _few(which: Iterable[str]) -> str:
    listed = list(which)
    return ", ".join(name[:100] for name in listed[:3]) + (" ..." if len(listed) > 3 else "")
