"""Running means of what each client's factors look like: the features of clustering (section 1.5).

    Bbar(t) = lambda Bbar(t-1) + (1 - lambda) Bhat(t),   Bhat = B_i / |B_i|  or  (B_i - B) / |B_i - B|

Both features are kept, so that the report can compare them. Every Bhat is rotated onto the running
mean first (Procrustes), since an SVD reset may turn the basis from one round to the next.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from silva.adapters.subspace import align, unit
from silva.adapters.tiers import LoraPair

FEATURES = ("B_ema", "dB_ema")


def updated_means(
    before: Mapping[str, Tensor] | None,
    trained: Mapping[str, LoraPair],
    start: Mapping[str, LoraPair],
    decay: float,
) -> dict[str, Tensor]:
    """New running means by key "<feature>/<module>", after one round of one client.

    trained holds the client's factors before the server's reset, start the ones it was sent.
    """
    means: dict[str, Tensor] = {}
    for name, pair in trained.items():
        factors = {"B_ema": pair.B, "dB_ema": pair.B - start[name].B}
        for feature, factor in factors.items():
            key, fresh = f"{feature}/{name}", unit(factor)
            old = None if before is None else before.get(key)
            if old is not None:
                fresh = decay * old + (1 - decay) * align(fresh, old)
            means[key] = unit(fresh)
    return means


def of_feature(means: Mapping[str, Tensor], feature: str) -> dict[str, Tensor]:
    """The factors of one feature, by module."""
    prefix = f"{feature}/"
    return {k.removeprefix(prefix): v for k, v in means.items() if k.startswith(prefix)}
