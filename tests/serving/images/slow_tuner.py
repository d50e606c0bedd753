"""A tuner that stays at its first pass, for as long as nobody ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SlowTuner:
    """Asks leave for one pass of three and does not come back from it."""

    def tune(
        self, forest: Any, client: str, examples: Any, leave: Callable[[int, int], None]
    ) -> Any:
        leave(1, 3)
        while True:
            time.sleep(0.05)
