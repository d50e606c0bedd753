"""Trees of image files: ImageFolder, one folder a domain (DomainNet, PACS), one folder a client.

All images lie at one depth. What a folder level means is written as a path from the root:

    class             root/<class>/*.jpg
    split/class       root/{train,val,test}/<class>/*.jpg
    domain/class      root/<domain>/<class>/*.jpg
    client/class      root/<client>/<class>/*.jpg
    split/class/-     root/{train,val}/<class>/images/*.jpg   ("-": the level means nothing)

Exactly one level is `class`; any other word becomes a column of that name. Without such a path the
levels are detected where that is safe: one level is the class; a level of nothing but train, val
and test is the split; above the class, nothing but names of the published multi-domain sets is the
domain. Everything else is an error that asks for `--labels`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from silva.data.columns import assemble, name_column, sorted_names
from silva.data.levels import MAX_DEPTH, are_levels, given_levels, is_split
from silva.data.nouns import ImageDataset
from silva.data.sources import SUFFIXES, FileSource
from silva.errors import DataError

MAX_IMAGES = 20_000_000

DOMAINS = frozenset(
    "clipart infograph painting quickdraw real sketch photo art_painting cartoon "
    "art product real_world realworld amazon dslr webcam caltech".split()
)
"""Domains of DomainNet, PACS, Office-Home and Office-31, in lower case, spaces as underscores."""

_EXAMPLES = "class, split/class, domain/class, client/class"


def is_level_path(labels: str) -> bool:
    """Whether `labels` names folder levels, as "domain/class" does."""
    words = labels.split("/")
    return "class" in words and are_levels(words)


def read_folder(root: Path, *, split: str = "", labels: str = "") -> ImageDataset:
    """The images below `root`; `labels` says what the folder levels mean (see above).

    Symbolic links are followed; hidden files and files of other endings are passed over. Raises
    DataError when there are no images, when they lie at different depths, or when the levels can
    be read in more than one way.
    """
    paths = sorted(_walk(root))
    if not paths:
        endings = " ".join(sorted(SUFFIXES))
        raise DataError(f"no images in it (looked for {endings})", where=root, remedy="check it")
    folders = [path.split("/")[:-1] for path in paths]
    depth = _depth(paths, folders, root)
    levels = [[parts[level] for parts in folders] for level in range(depth)]
    words = _given(labels, depth, root) if labels else _detected([set(x) for x in levels], root)
    columns = {
        "label" if word == "class" else word: name_column(level)
        for word, level in zip(words, levels, strict=True)
        if word != "-"
    }
    return assemble(FileSource(root, paths), columns, where=root, title=root.name, split=split)


def _walk(root: Path, inside: str = "", depth: int = 0) -> Iterator[str]:
    """Paths of image files relative to `root`, with "/" between folders."""
    try:
        with os.scandir(root / inside) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for count, entry in enumerate(entries):
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.name.startswith("."):
                continue
            if count >= MAX_IMAGES:
                raise DataError(f"more than {MAX_IMAGES} files", where=root, remedy="split it up")
            if os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                yield path
            elif entry.is_dir():
                # Links may run in circles; no layout of images is this deep.
                if depth >= MAX_DEPTH:
                    what = f"folders deeper than {MAX_DEPTH} levels ({path[:80]})"
                    raise DataError(what, where=root, remedy="give the folder of the data set")
                yield from _walk(root, path, depth + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        where = root / inside
        raise DataError(f"cannot be read ({reason})", where=where, remedy="check it") from None


def _depth(paths: Sequence[str], folders: Sequence[Sequence[str]], root: Path) -> int:
    depths = [len(parts) for parts in folders]
    low, high = min(depths), max(depths)
    if low != high:
        one, other = paths[depths.index(low)], paths[depths.index(high)]
        raise DataError(
            f"images at different depths ({one}, {other})",
            where=root,
            remedy="give the folder whose images all lie equally deep",
        )
    if low == 0:
        raise DataError(
            "images lie directly in it, so nothing says their class",
            where=root,
            remedy="make one folder a class",
        )
    return low


def _detected(levels: Sequence[set[str]], root: Path) -> list[str]:
    """What each level means, where only one reading is sound."""
    words = ["split" if is_split(names) else "" for names in levels]
    rest = [level for level, word in enumerate(words) if not word]
    if words.count("split") <= 1 and rest:
        if len(rest) == 1:
            words[rest[0]] = "class"
        elif len(rest) == 2 and all(_domain_name(name) in DOMAINS for name in levels[rest[0]]):
            words[rest[0]], words[rest[1]] = "domain", "class"
    if "" in words or words.count("class") != 1:
        raise DataError(
            f"{len(levels)} folder levels ({_example(levels)}) can be read in several ways",
            where=root,
            remedy=f"say what each level is, for instance --labels {_proposal(len(levels))}",
        )
    return words


def _domain_name(name: str) -> str:
    return name.lower().replace(" ", "_")


def _example(levels: Sequence[set[str]]) -> str:
    return "/".join(sorted_names(names)[0][:24] for names in levels)


def _proposal(depth: int) -> str:
    return {1: "class", 2: "client/class", 3: "split/client/class"}.get(depth, "client/class/-/-")


def _given(labels: str, depth: int, root: Path) -> list[str]:
    def usable(named: Sequence[str]) -> bool:
        return "class" in named and "label" not in named

    return given_levels(labels, depth, root, files="images", examples=_EXAMPLES, usable=usable)
