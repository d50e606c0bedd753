"""What the folder levels of a tree of files mean, as people name them in `--labels`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from silva.data.split import SPLIT_WORDS, TRAIN_WORDS
from silva.errors import DataError

MAX_DEPTH = 5
"""Folder levels: links may run in circles, and no layout of data is deeper."""
_LEVEL = re.compile(r"-|[a-z][a-z0-9_]{0,31}")


def are_levels(words: Iterable[str]) -> bool:
    """Whether each word can name a level; "-" is one that means nothing."""
    return all(_LEVEL.fullmatch(word) for word in words)


def given_levels(
    labels: str,
    depth: int,
    root: Path,
    *,
    files: str,
    examples: str,
    usable: Callable[[Sequence[str]], bool] = lambda named: True,
) -> list[str]:
    """The words of `labels`, one for each of the `depth` levels above the files.

    files: what lies there, and `examples` of how it may be said, for people who are mistaken; usable:
    whether the words other than "-" are such as the files need. Raises DataError.
    """
    words = labels.split("/")
    named = [word for word in words if word != "-"]
    if not are_levels(words) or len(set(named)) < len(named) or not usable(named):
        raise DataError(
            f"--labels {labels[:80]!r} does not name folder levels",
            where=root,
            remedy=f"write each level once, as in {examples}",
        )
    if len(words) != depth:
        raise DataError(
            f"--labels {labels[:80]!r} names {len(words)} levels but {files} lie {depth} deep",
            where=root,
            remedy='write "-" for a level that means nothing',
        )
    return words


def is_split(names: set[str]) -> bool:
    """Whether a level has folders of training, validation and test data and nothing else."""
    lowered = {name.lower() for name in names}
    return lowered <= SPLIT_WORDS and bool(lowered & TRAIN_WORDS)
