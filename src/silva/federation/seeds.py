"""Seeds that depend on what is drawn, never on what was drawn before.

A run keeps no generator state: whoever resumes it derives the same numbers from the same labels.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *labels: object) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive(0, "root", 3, "c-17")``."""
    text = "\x1f".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: object) -> np.random.Generator:
    """A numpy generator seeded by `derive`."""
    return np.random.default_rng(derive(seed, *labels))
