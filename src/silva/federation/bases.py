"""Running means of what each client's factors look like: the features of clustering (section 1.5).

    Bbar(t) = lambda Bbar(t-1) + (1 - lambda) Bhat(t),   Bhat = B_i / |B_i|  or  (B_i - B) / |B_i - B|

All features are kept, so that the report can compare them. For the two that are subspaces every Bhat
is rotated onto the running mean first (Procrustes), since an SVD reset may turn the basis from one
round to the next. The third, dB_cos, is the direction of the change itself, column by column: clients
start a round from the same B, so their columns correspond. It is kept for the value projections alone,
where there are any: queries of clients with different classes hardly change apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
    `subspaces` only the direction of the change goes on.
    """
    means: dict[str, Tensor] = {}
    for name, pair in trained.items() if subspaces else ():
        factors = {"B_ema": pair.B, "dB_ema": pair.B - start[name].B}
        for feature, factor in factors.items():
            key, fresh = f"{feature}/{name}", unit(factor)
            old = None if before is None else before.get(key)
            if old is not None:
                fresh = decay * old + (1 - decay) * align(fresh, old)
            means[key] = unit(fresh)
    for name in directed(trained):
        key, fresh = f"dB_cos/{name}", unit(trained[name].B - start[name].B)
        old = None if before is None else before.get(key)
        means[key] = fresh if old is None else decay * old + (1 - decay) * fresh
    return means


def directed(names: Iterable[str]) -> list[str]:
    """Modules whose direction of change counts: value projections, or all where there are none."""
    every = list(names)
    return [name for name in every if name.endswith("v_proj")] or every


def of_feature(means: Mapping[str, Tensor], feature: str) -> dict[str, Tensor]:
    """The factors of one feature, by module."""
    prefix = f"{feature}/"
    return {k.removeprefix(prefix): v for k, v in means.items() if k.startswith(prefix)}
