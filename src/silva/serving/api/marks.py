"""Marks in a text that comes in pieces."""

from __future__ import annotations


def overlap(text: str, mark: str) -> int:
    """Length of the longest proper beginning of `mark` that `text` ends with."""
    return next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)
