"""A tokeniser of letters, and trees of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from silva.errors import PromptError


class Letters:
    """A token a character; 0 stands between two texts."""

    end = (0,)

    def encode(self, text: str) -> Sequence[int]:
        if "\a" in text:
            raise PromptError("the text rings")
        return [ord(c) for c in text]

    def size(self, token: int) -> int:
        return len(chr(token).encode()) if token else 0


def tree(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
