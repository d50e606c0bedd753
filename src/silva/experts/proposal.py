"""Another placement of one layer, and the loading of what a rank holds then, beside the passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from silva.models.experts import ExpertWeights


@dataclass
class Proposal:
    """As one rank knows it."""

    number: int
    layer: int
    """By its place on the boards."""
    table: NDArray[np.int64]
    """Where the layer's experts are then [ranks, slots]."""
    weights: ExpertWeights | None = None
    """Where this rank holds other experts then, once they are loaded."""
    error: Exception | None = None
    _loader: Thread | None = field(default=None, init=False)

    def load(self, read: Callable[[], ExpertWeights], done: Callable[[], None]) -> None:
        """Begin to load; `done` is called on the loader's thread, whether that worked or not."""

        def run() -> None:
            try:
                self.weights = read()
            except Exception as error:
                self.error = error
            done()

        # No daemon: in compiled code when the interpreter goes it would abort the process.
        self._loader = Thread(target=run, name="experts", daemon=False)
        self._loader.start()

    def wait(self, seconds: float | None = None) -> None:
        """Until it is loaded, or so long; at once where nothing is to be loaded."""
        if self._loader is not None:
            self._loader.join(seconds)
