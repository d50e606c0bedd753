"""Running means of what each client's factors look like: the features of clustering (section 1.5).

    Bbar(t) = lambda Bbar(t-1) + (1 - lambda) Bhat(t),   Bhat = B_i / |B_i|  or  (B_i - B) / |B_i - B|

The mean starts at zero and is divided by 1 - lambda^t, as in Adam (arXiv 1412.6980, section 3): a mean
that starts at the first round gives that one round most of the weight for 1 / (1 - lambda) rounds.

All features are kept, so that the report can compare them. For the two that are subspaces every Bhat
is rotated onto the running mean first (Procrustes), since an SVD reset may turn the basis from one
round to the next. The third, dB_cos, is the direction of the change itself, column by column: clients
start a round from the same B, so their columns correspond. It is kept for the value projections alone,
where there are any: queries of clients with different classes hardly change apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from silva.adapters.subspace import align, unit
from silva.adapters.tiers import LoraPair

FEATURES = ("B_ema", "dB_ema", "dB_cos")


def updated_means(
    before: Mapping[str, Tensor] | None,
    trained: Mapping[str, LoraPair],
    start: Mapping[str, LoraPair],
    decay: float,
    *,
    subspaces: bool = True,
) -> dict[str, Tensor]:
    """New running means by key "<feature>/<module>", after one round of one client.

    trained holds the client's factors before the server's reset, start the ones it was sent. Without
    `subspaces` only the direction of the change goes on. "rounds/<kind>" counts the rounds in a mean.
    """
    means = dict(before or {})
    if subspaces:
        weight = _count(means, "subspaces", decay)
        for name, pair in trained.items():
            factors = {"B_ema": pair.B, "dB_ema": pair.B - start[name].B}
            for feature, factor in factors.items():
                key, fresh = f"{feature}/{name}", unit(factor)
                old = means.get(key)
                means[key] = fresh if old is None else old.lerp(align(fresh, old), weight)
    weight = _count(means, "directions", decay)
    for name in directed(trained):
        key, fresh = f"dB_cos/{name}", unit(trained[name].B - start[name].B)
        old = means.get(key)
        means[key] = fresh if old is None else old.lerp(fresh, weight)
    return means


def _count(means: dict[str, Tensor], kind: str, decay: float) -> float:
    """Count one more round, and return its weight: (1 - lambda) / (1 - lambda^t), 1 / t at lambda 1."""
    key = f"rounds/{kind}"
    rounds = means.get(key, torch.zeros(1)) + 1.0
    means[key] = rounds
    t = float(rounds)
    return 1.0 / t if decay == 1.0 else (1.0 - decay) / (1.0 - decay**t)


def directed(names: Iterable[str]) -> list[str]:
    """Modules whose direction of change counts: value projections, or all where there are none."""
    every = list(names)
    return [name for name in every if name.endswith("v_proj")] or every


def of_feature(means: Mapping[str, Tensor], feature: str) -> dict[str, Tensor]:
    """The factors of one feature, by module."""
    prefix = f"{feature}/"
    return {k.removeprefix(prefix): v for k, v in means.items() if k.startswith(prefix)}
