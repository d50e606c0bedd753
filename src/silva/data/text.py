"""Texts as windows of tokens: what language models train on.

The texts of a folder, in the order of their names (`silva.data.text_tree`), are one sequence of tokens,
with the model's end token between two of them. It is cut into windows that follow each other: the last
token of one is the first of the next, so that every token but the first is predicted once. What is left
over is too short for a window and is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from silva.data.columns import SHARE_SEED, Column, name_column
from silva.data.nouns import Dataset
from silva.data.split import as_share, split_codes, split_rows
from silva.data.text_tree import read_text, read_tree
from silva.errors import DataError, PromptError

PIECE = 1 << 20
"""Characters that are cut into tokens at a time, up to the end of a line."""

Named = tuple[object, str]
"""A text, and where it is from."""


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

    labels  what the folder levels mean; see `silva.data.text_tree.read_tree`, also on which files
    split   a share of test windows such as "0.2", drawn in every folder alike; "" as the tree has
            it, and else `share` (None: the data set has no split)

    Raises DataError where nothing is found, levels are not clear, a text is not UTF-8, or a folder's
    texts are shorter than a window.
    """
    tree = read_tree(root, labels)
    rows = [
        windows(((path, read_text(path)) for path in paths), coder, window, root / "/".join(owner))
        for owner, paths in tree.folders.items()
    ]
    owners, counts = list(tree.folders), [len(each) for each in rows]
    columns = {
        word: _column([owner[level] for owner in owners], counts)
        for level, word in enumerate(tree.levels)
        if word != "-"
    }
    source = Windows(
        np.concatenate([each.tokens for each in rows]),
        np.concatenate([each.bytes for each in rows]),
    )
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


def windows(texts: Iterable[Named], coder: Coder, window: int, where: object) -> Windows:
    """Windows of the one sequence that texts are in their order.

    Raises DataError, at `where` if all together are shorter than a window, else at the text's own.
    """
    sequence: list[int] = []
    for place, text in texts:
        if sequence:
            sequence += coder.end
        sequence += _tokens(text, coder, place)
    tokens = _cut(sequence, window, where)
    return Windows(tokens, _bytes(tokens[:, 1:], coder))


def _tokens(text: str, coder: Coder, where: object) -> list[int]:
    tokens: list[int] = []
    start = 0
    while start < len(text):
        stop = text.find("\n", start + PIECE) + 1 or len(text)
        try:
            tokens += coder.encode(text[start:stop])
        except PromptError as error:
            raise DataError(error.what, where=where, remedy="correct or remove it") from None
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
