"""Trees of text files, one folder a client.

client            root/<client>/*.txt
split/client      root/{train,test}/<client>/*.txt
domain            root/<language>/*.txt, for the partition domain_dir
domain/client     root/<language>/<client>/*.txt
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from silva.data.levels import MAX_DEPTH, given_levels, is_split
from silva.data.sources import read_file
from silva.errors import DataError

SUFFIXES = frozenset((".txt", ".text", ".md", ".rst"))
"""File name endings, in lower case, that are taken for texts."""
MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class TextTree:
    """Files by folder, in the order of their names.

    levels: what each folder level means, "-" for nothing; folders: by their names at every level, empty
    at one that means nothing.
    """

    levels: tuple[str, ...]
    folders: Mapping[tuple[str, ...], Sequence[Path]]


def read_tree(root: Path, labels: str = "") -> TextTree:
    """The text files below `root`, or the one file that it is.

    labels  what the folder levels mean, as above; "" takes one level for the client, and of two
            the one of train and test for the split

    Symbolic links are followed; hidden files and files of other endings are passed over. Raises
    DataError where nothing is found or levels are not clear.
    """
    paths = [root.name] if root.is_file() else sorted(_walk(root))
    folder = root.parent if root.is_file() else root
    if not paths:
        endings = " ".join(sorted(SUFFIXES))
        raise DataError(f"no texts in it (looked for {endings})", where=root, remedy="check it")
    words = _levels([path.split("/")[:-1] for path in paths], labels, root)
    folders: dict[tuple[str, ...], list[Path]] = {}
    for path in paths:
        names = path.split("/")[:-1]
        owner = tuple("" if w == "-" else name for w, name in zip(words, names, strict=True))
        folders.setdefault(owner, []).append(folder / path)
    return TextTree(tuple(words), folders)


def read_text(path: Path) -> str:
    """A whole file. Raises DataError for one that is too large, not readable or not UTF-8."""
    try:
        return read_file(path, MAX_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 (byte {error.start})", where=path, remedy="convert or remove it"
        ) from None


def _walk(root: Path, inside: str = "", depth: int = 0) -> Iterator[str]:
    """Paths of text files relative to `root`, with "/" between folders."""
    try:
        with os.scandir(root / inside) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"cannot be read ({reason})", where=root / inside, remedy="check it"
        ) from None
    for entry in entries:
        path = f"{inside}/{entry.name}" if inside else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            # Links may run in circles; no layout of texts is this deep.
            if depth >= MAX_DEPTH:
                what = f"folders deeper than {MAX_DEPTH} levels ({path[:80]})"
                raise DataError(what, where=root, remedy="give the folder of the data set")
            yield from _walk(root, path, depth + 1)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield path


def _levels(folders: Sequence[Sequence[str]], labels: str, root: Path) -> list[str]:
    """What each folder level means."""
    depths = {len(parts) for parts in folders}
    if len(depths) > 1:
        raise DataError(
            f"texts at different depths ({min(depths)} and {max(depths)} folders)",
            where=root,
            remedy="give the folder whose texts all lie equally deep",
        )
    (depth,) = depths
    if labels:
        examples = "client, split/client, domain, domain/client"
        return given_levels(labels, depth, root, files="texts", examples=examples)
    words = ["split" if is_split({parts[n] for parts in folders}) else "" for n in range(depth)]
    if words.count("") <= 1 and words.count("split") <= 1:
        return [word or "client" for word in words]
    raise DataError(
        f"{depth} folder levels can be read in several ways",
        where=root,
        remedy="say what each level is, for instance --labels domain/client",
    )
