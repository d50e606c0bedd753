"""One client's texts as they are sent to a server: read where they lie, cut where the model is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from silva.data.columns import name_column
from silva.data.labelled import EXAMPLES
from silva.data.nouns import TRAIN
from silva.data.split import split_codes
from silva.data.text import Coder, TextDataset, windows
from silva.data.text_tree import TextTree, read_text, read_tree
from silva.errors import DataError

MAX_WINDOWS = 512
"""Of one client; each costs as many tokens as a window has, in every pass."""


@dataclass(frozen=True)
class SentTexts:
    """Whole texts in their order; nothing of them is believed."""

    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def dataset(self, coder: Coder, window: int) -> TextDataset:
        """The same as windows: those of a folder that holds the texts in this order.

        Raises DataError for texts that have no tokens in the model, and for too few or too many.
        """
        named = ((f"{EXAMPLES}.{n}", text) for n, text in enumerate(self.texts))
        source = windows(named, coder, window, EXAMPLES)
        if len(source) > MAX_WINDOWS:
            raise DataError(
                f"{len(source)} windows of {window} tokens; a server takes {MAX_WINDOWS}",
                where=EXAMPLES,
                remedy="send less text, or use `silva forest probe` and `silva forest add`",
            )
        labels = np.zeros(len(source), dtype=np.int64)
        return TextDataset(source, labels, ("text",), title=EXAMPLES)


def training_texts(root: Path, labels: str = "") -> tuple[str, ...]:
    """The texts of one client's folder, of the part for training where it has parts.

    Raises DataError for several folders, whose texts are not one sequence, and as `read_tree` does.
    """
    tree = read_tree(root, labels)
    folders = _for_training(tree, root)
    if len(folders) != 1:
        raise DataError(
            f"texts in {len(folders)} folders; a client has one",
            where=root,
            remedy="give the folder of one client",
        )
    return tuple(read_text(path) for path in tree.folders[folders[0]])


def _for_training(tree: TextTree, root: Path) -> list[tuple[str, ...]]:
    folders = list(tree.folders)
    if "split" not in tree.levels:
        return folders
    level = tree.levels.index("split")
    words = name_column([folder[level] for folder in folders])
    codes = split_codes(words.values, words.names, root)
    if codes is None:
        return folders
    return [folder for folder, code in zip(folders, codes, strict=True) if code == TRAIN]
