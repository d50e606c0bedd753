"""What is on its way in a round."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Sent(NamedTuple):
    """Copies of tokens on their way. Each rank's lie in its memory sorted by slot."""

    answers: Tensor
    """Where in the buffer of answers that of each copy will be, int64 [tokens, top_k]; -1: it is
    lost, since no rank alive holds the expert. Those of rank r begin at ``r * max_tokens``."""
    counts: NDArray[np.int64]
    """Copies for each slot [ranks, slots]."""
