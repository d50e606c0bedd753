"""How sure the first head may be: one temperature, from images that the head has not seen.

    score_c = logit_c / T + log p_c         p: how frequent classes are with the client

Discriminants from few images of many features are far too sure: their logits are right in order and
many times too large, so that a client's label prior hardly counts and training starts where the loss is
flat. T is the temperature under which images of clients that took no part in a head surprise it least
(temperature scaling: Guo et al., On Calibration of Modern Neural Networks, ICML 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from silva.adapters.label_priors import Floats
from silva.adapters.tiers import Head
from silva.federation.discriminants import ClassStatistics, discriminant_head
from silva.federation.replies import ROUNDING

TEMPERATURES = tuple(2.0 ** (n / 2) for n in range(-2, 13))
"""Those that are compared, from 1/2 to 64."""
FOLDS = 5
"""Parts of the data of which each is judged by a head of the others."""

Ask = Callable[[int, Head, Tensor], Tensor]
"""Fold by number, a head of all others, bool [classes] of those it knows -> `surprise` of the fold."""


def dealt(order: Sequence[int]) -> list[list[int]]:
    """Items dealt out to at most `FOLDS` folds, none of them empty."""
    return [list(order[n::FOLDS]) for n in range(min(FOLDS, len(order)))]


def temperature(folds: Sequence[Sequence[ClassStatistics]], ask: Ask) -> float:
    """The best of `TEMPERATURES` for a head of all `folds`; 1 where nothing speaks for another.

    Each fold is judged by a head of the others.
    """
    total = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
    for number in range(len(folds)):
        rest = [s for other, fold in enumerate(folds) if other != number for s in fold]
        if rest:
            known = torch.stack([s.counts for s in rest]).sum(dim=0) > 0
            total += ask(number, discriminant_head(rest), known)
    return TEMPERATURES[int(total.argmin())] if bool(total.any()) else 1.0


def surprise(head: Head, features: Tensor, labels: Tensor, prior: Floats, known: Tensor) -> Tensor:
    """Cross entropy [len(TEMPERATURES)], float64, summed over images whose class the head knows.

    features [n, hidden] and labels [n] of one client; prior [classes]: how frequent its classes are.
    """
    rows = known[labels]
    logits = F.linear(features[rows], head.weight, head.bias).double()
    shift = torch.from_numpy(prior).log()
    losses = [
        F.cross_entropy(logits / t + shift, labels[rows], reduction="sum") for t in TEMPERATURES
    ]
    return torch.stack(losses)


def possible_surprise(said: Tensor, head: Head, longest: float, images: int, prior: Floats) -> bool:
    """Whether `images` features no longer than `longest` can be surprised so; NaN cannot.

    Of one image under T it is at most 2 max_c |logit_c| / T - log min_c p_c, and never negative.
    """
    reach = float((head.weight.norm(dim=1) * longest + head.bias.abs()).max()) * (1 + ROUNDING)
    most = [images * (2 * reach / t - float(np.log(prior.min()))) for t in TEMPERATURES]
    return bool(((said >= 0) & (said <= torch.tensor(most, dtype=said.dtype))).all())


def cooled(head: Head, temperature: float) -> Head:
    """`head` with its logits divided by `temperature`."""
    return Head(weight=head.weight / temperature, bias=head.bias / temperature)
