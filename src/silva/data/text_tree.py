"""Trees of text files, one folder a client.

client            root/<client>/*.txt
split/client      root/{train,test}/<client>/*.txt
domain            root/<language>/*.txt, for the partition domain_dir
domain/client     root/<language>/<client>/*.txt
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from silva.data.sources import read_file
from silva.data.split import SPLIT_WORDS, TRAIN_WORDS
from silva.errors import DataError

SUFFIXES = frozenset((".txt", ".text", ".md", ".rst"))
"""File name endings, in lower case, that are taken for texts."""
MAX_FILE_BYTES = 64 * 2**20
MAX_DEPTH = 5

_LEVEL = re.compile(r"-|[a-z][a-z0-9_]{0,31}")


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
        return _given(labels, depth, root)
    words = ["split" if _is_split({parts[n] for parts in folders}) else "" for n in range(depth)]
    if words.count("") <= 1 and words.count("split") <= 1:
        return [word or "client" for word in words]
    raise DataError(
        f"{depth} folder levels can be read in several ways",
        where=root,
        remedy="say what each level is, for instance --labels domain/client",
    )


def _given(labels: str, depth: int, root: Path) -> list[str]:
    words = labels.split("/")
    named = [word for word in words if word != "-"]
    if not all(_LEVEL.fullmatch(word) for word in words) or len(set(named)) < len(named):
        raise DataError(
            f"--labels {labels[:80]!r} does not name folder levels",
            where=root,
            remedy="write each level once, as in client, split/client, domain, domain/client",
        )
    if len(words) != depth:
        raise DataError(
            f"--labels {labels[:80]!r} names {len(words)} levels but texts lie {depth} deep",
            where=root,
            remedy='write "-" for a level that means nothing',
        )
    return words


def _is_split(names: set[str]) -> bool:
    lowered = {name.lower() for name in names}
    return lowered <= SPLIT_WORDS and bool(lowered & TRAIN_WORDS)
