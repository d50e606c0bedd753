"""Running means of what each client's factors look like: the features of clustering (section 1.5).

    Bbar(t) = lambda Bbar(t-1) + (1 - lambda) Bhat(t),   Bhat = B_i / |B_i|  or  (B_i - B) / |B_i - B|

The mean starts at zero and is divided by 1 - lambda^t, as in Adam (arXiv 1412.6980, section 3): a mean
that starts at the first round gives that one round most of the weight for 1 / (1 - lambda) rounds.

All features are kept, so that the report can compare them. For those that are subspaces every Bhat is
rotated onto the running mean first (Procrustes), since an SVD reset may turn the basis from one round
to the next. Projections differ in what they tell. Where pictures look different, queries change in
different subspaces, and values too, but those even more with the classes that a client happens to have:
dQ_ema is dB_ema of the queries alone. Where classes differ, queries hardly change apart, and values
move in different directions: dB_cos is the direction of the change, column by column, of the values
alone. Clients start a round from the same B, so their columns correspond as long as all took part in
the same rounds (`grouping.same_rounds`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from silva.adapters.subspace import align, unit
from silva.adapters.tiers import LoraPair

FEATURES = ("B_ema", "dB_ema", "dQ_ema", "dB_cos")


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
    `subspaces` B itself does not count: in the first rounds it spans noise, unlike its change.
    "rounds/<feature>" counts the rounds in a mean.
    """
    means = dict(before or {})
    changes = {name: pair.B - start[name].B for name, pair in trained.items()}
    if subspaces:
        _fold(means, "B_ema", {name: pair.B for name, pair in trained.items()}, decay, turned=True)
    _fold(means, "dB_ema", changes, decay, turned=True)
    values = {name: changes[name] for name in of_kind(changes, "v_proj")}
    _fold(means, "dB_cos", values, decay, turned=False)
    return means


def _fold(
    means: dict[str, Tensor],
    feature: str,
    factors: Mapping[str, Tensor],
    decay: float,
    *,
    turned: bool,
) -> None:
    """Take one more round into the mean of a feature; `turned` onto it where bases are arbitrary.

    Its weight is (1 - lambda) / (1 - lambda^t) in round t, and 1 / t for lambda = 1.
    """
    rounds = means.get(f"rounds/{feature}", torch.zeros(1)) + 1.0
    means[f"rounds/{feature}"], t = rounds, float(rounds)
    weight = 1.0 / t if decay == 1.0 else (1.0 - decay) / (1.0 - decay**t)
    for name, factor in factors.items():
        key, fresh = f"{feature}/{name}", unit(factor)
        old = means.get(key)
        if old is not None:
            fresh = old.lerp(align(fresh, old) if turned else fresh, weight)
        means[key] = fresh


def of_kind(names: Iterable[str], projection: str) -> list[str]:
    """The modules of one projection, or all where there are none."""
    every = list(names)
    return [name for name in every if name.endswith(projection)] or every


def of_feature(means: Mapping[str, Tensor], feature: str) -> dict[str, Tensor]:
    """The factors of one feature, by module."""
    prefix = "dB_ema/" if feature == "dQ_ema" else f"{feature}/"
    found = {k.removeprefix(prefix): v for k, v in means.items() if k.startswith(prefix)}
    return {n: found[n] for n in of_kind(found, "q_proj")} if feature == "dQ_ema" else found
