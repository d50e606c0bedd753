"""Which replies the server believes: those that local training can have made.

One reply with infinite numbers, or with finite ones so large that the mean overflows, would spoil a
tier for everybody. How far AdamW goes is known whatever the gradients are: with m and v the running
means of gradients and of their squares, Cauchy-Schwarz gives

    |m| / sqrt(v) <= (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)),    7.3 for b1 = 0.9, b2 = 0.999

and the corrections of bias make it smaller still (Kingma and Ba, 2015, section 2.1, bound a step in
this way). So a step moves no number by more than 7.3 learning rates. Weight decay, as long as learning
rate times decay stays below 2, and the projection of kind "hard" only shrink. An honest client stays
within these bounds always; a dishonest one can be a few times louder than an honest one, no more. The
weight of a reply is no claim of the client's: the server dealt the images out and knows how many there
are, so a reply that says another number is not believed.
"""

from __future__ import annotations

import math

from torch import Tensor

from silva.federation.client import Update, Work
from silva.federation.config import LocalConfig

BETAS = (0.9, 0.999)
"""Of torch.optim.AdamW, which clients use as it comes."""

REACH = (1 - BETAS[0]) / math.sqrt((1 - BETAS[1]) * (1 - BETAS[0] ** 2 / BETAS[1]))
"""Learning rates by which one step moves a number at most."""

ROUNDING = 1e-3
"""Relative tolerance for float32 sums."""


def believable(update: Update, work: Work, local: LocalConfig, images: int) -> bool:
    """Whether `work` on `images` images can have ended in `update`: whose it is, the number of images,
    shapes, and the size of each part.

    False for NaN and infinities too, wherever they stand.
    """
    if update.client != work.client or update.images != images:
        return False
    said = (update.loss, update.seconds, update.seconds_compute)
    if not all(map(math.isfinite, said)) or set(update.pairs) != set(work.pairs):
        return False
    steps = work.epochs * math.ceil(images / local.batch_size)
    steps = min(steps, work.max_steps) if work.max_steps else steps
    pair_step = local.lr * work.rate * REACH * steps if work.train_pairs else 0.0
    head_step = local.head_lr * work.rate * REACH * steps if work.train_head else 0.0
    factors = [(p.A, work.pairs[n].A) for n, p in update.pairs.items()]
    factors += [(p.B, work.pairs[n].B) for n, p in update.pairs.items()]
    heads = [(update.head.weight, work.head.weight), (update.head.bias, work.head.bias)]
    return all(_within(new, sent, pair_step) for new, sent in factors) and all(
        _within(new, sent, head_step) for new, sent in heads
    )


def _within(new: Tensor, sent: Tensor, move: float) -> bool:
    """|new| <= |sent| + what `move` of every number adds; not so for NaN."""
    if new.shape != sent.shape:
        return False
    bound = float(sent.norm()) + move * math.sqrt(sent.numel())
    return float(new.norm()) <= bound * (1 + ROUNDING)
