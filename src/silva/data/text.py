"""Trees of text files, one folder a client, as windows of tokens: what language models train on.

    client            root/<client>/*.txt
    split/client      root/{train,test}/<client>/*.txt
    domain            root/<language>/*.txt, for the partition domain_dir
    domain/client     root/<language>/<client>/*.txt

The texts of a folder, in the order of their names, are one sequence of tokens, with the model's end
token between two of them. It is cut into windows that follow each other: the last token of one is the
first of the next, so that every token but the first is predicted once. What is left over is too short
for a window and is dropped.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from silva.data.columns import SHARE_SEED, Column, name_column
from silva.data.nouns import Dataset
from silva.data.sources import read_file
from silva.data.split import SPLIT_WORDS, TRAIN_WORDS, as_share, split_codes, split_rows
from silva.errors import DataError, PromptError

SUFFIXES = frozenset((".txt", ".text", ".md", ".rst"))
"""File name endings, in lower case, that are taken for texts."""
MAX_FILE_BYTES = 64 * 2**20
MAX_DEPTH = 5
PIECE = 1 << 20
"""Characters that are cut into tokens at a time, up to the end of a line."""

_LEVEL = re.compile(r"-|[a-z][a-z0-9_]{0,31}")


class Coder(Protocol):
    """A model's tokens, as far as cutting texts needs them."""

    @property
    def end(self) -> Sequence[int]:
        """What stands between two texts: the model's end token, or nothing."""
        ...

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of a text, none of them special. Raises PromptError."""
        ...

    def size(self, token: int) -> int:
        """Bytes of text that a token stands for."""
        ...


@dataclass(frozen=True)
class Windows:
    """Windows of tokens: int32 [n, window + 1], and the bytes that the last `window` stand for [n]."""

    tokens: NDArray[np.int32]
    bytes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    def digest(self) -> str:
        """SHA-256 of all tokens."""
        state = hashlib.sha256(repr(self.tokens.shape).encode())
        state.update(np.ascontiguousarray(self.tokens).data)
        return state.hexdigest()


@dataclass(frozen=True)
class TextDataset(Dataset):
    """Windows of text, all of one class."""

    source: Windows

    unit: ClassVar[str] = "windows"


def read_texts(
    root: Path,
    coder: Coder,
    window: int,
    *,
    split: str = "",
    labels: str = "",
    share: float | None = None,
) -> TextDataset:
    """The texts below `root`, or in the one file that it is, in windows of `window` tokens.

    labels  what the folder levels mean, as above; "" takes one level for the client, and of two
            the one of train and test for the split
    split   a share of test windows such as "0.2", drawn in every folder alike; "" as the tree has
            it, and else `share` (None: the data set has no split)

    Symbolic links are followed; hidden files and files of other endings are passed over. Raises
    DataError where nothing is found, levels are not clear, a text is not UTF-8, or a folder's texts
    are shorter than a window.
    """
    paths = [root.name] if root.is_file() else sorted(_walk(root))
    folder = root.parent if root.is_file() else root
    if not paths:
        endings = " ".join(sorted(SUFFIXES))
        raise DataError(f"no texts in it (looked for {endings})", where=root, remedy="check it")
    words = _levels([path.split("/")[:-1] for path in paths], labels, root)
    sequences = _sequences(folder, paths, words, coder)
    cut = [_cut(found, window, root / "/".join(owner)) for owner, found in sequences.items()]
    owners, counts = list(sequences), [len(rows) for rows in cut]
    tokens = np.concatenate(cut)
    columns = {
        word: _column([owner[level] for owner in owners], counts)
        for level, word in enumerate(words)
        if word != "-"
    }
    source = Windows(tokens, _bytes(tokens[:, 1:], coder))
    asked = as_share(split)
    if split and asked is None:
        raise DataError(
            f"texts have no column {split[:40]!r} to split by",
            where=root,
            remedy="give a share such as --split 0.2, or a folder level (--labels split/client)",
        )
    return _split(source, columns, counts, asked, share, root)


def _split(
    source: Windows,
    columns: Mapping[str, Column],
    counts: Sequence[int],
    asked: float | None,
    share: float | None,
    root: Path,
) -> TextDataset:
    """The data set with a split: the share that was asked for, the tree's, or the usual share."""
    rest = dict(columns)
    level = rest.pop("split", None)
    codes = None
    if level is not None and asked is None:
        codes = split_codes(level.values, level.names, root)
    dataset = TextDataset(
        source=source,
        labels=np.zeros(len(source), dtype=np.int64),
        class_names=("text",),
        split=codes,
        columns={name: column.values for name, column in rest.items()},
        names={name: column.names for name, column in rest.items()},
        title=root.name,
    )
    drawn = asked if asked is not None else share
    if codes is not None or drawn is None:
        return dataset
    # The rule draws in every class alike, and here it is to draw in every folder.
    by_folder = replace(dataset, labels=np.repeat(np.arange(len(counts)), counts))
    return replace(dataset, split=split_rows(by_folder, drawn, SHARE_SEED).split)


def _column(words: Sequence[str], counts: Sequence[int]) -> Column:
    """One word a folder, for each of its windows."""
    column = name_column(words)
    return Column(np.repeat(column.values, counts), column.names)


def _sequences(
    root: Path, paths: Sequence[str], words: Sequence[str], coder: Coder
) -> dict[tuple[str, ...], list[int]]:
    """Tokens of every folder's texts, by the folder's path; levels that mean nothing are one."""
    found: dict[tuple[str, ...], list[int]] = {}
    for path in paths:
        levels = path.split("/")[:-1]
        owner = tuple("" if w == "-" else level for w, level in zip(words, levels, strict=True))
        sequence = found.setdefault(owner, [])
        if sequence:
            sequence += coder.end
        sequence += _tokens(root / path, coder)
    return found


def _tokens(path: Path, coder: Coder) -> list[int]:
    try:
        text = read_file(path, MAX_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 (byte {error.start})", where=path, remedy="convert or remove it"
        ) from None
    tokens: list[int] = []
    start = 0
    while start < len(text):
        stop = text.find("\n", start + PIECE) + 1 or len(text)
        try:
            tokens += coder.encode(text[start:stop])
        except PromptError as error:
            raise DataError(error.what, where=path, remedy="correct or remove it") from None
        start = stop
    return tokens


def _bytes(tokens: NDArray[np.int32], coder: Coder) -> NDArray[np.int64]:
    """Bytes that rows of tokens [n, length] stand for: [n]."""
    known, places = np.unique(tokens, return_inverse=True)
    sizes = np.array([coder.size(token) for token in known.tolist()], dtype=np.int64)
    return sizes[places].reshape(tokens.shape).sum(axis=1)


def _cut(sequence: Sequence[int], window: int, where: object) -> NDArray[np.int32]:
    """Windows [n, window + 1] of one sequence."""
    tokens = np.asarray(sequence, dtype=np.int32)
    n = (len(tokens) - 1) // window
    if n < 1:
        raise DataError(
            f"{len(tokens)} tokens are less than a window of {window} and the token before it",
            where=where,
            remedy="give it more text, or lower data.window",
        )
    starts = window * np.arange(n)
    return tokens[starts[:, None] + np.arange(window + 1)]


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
