"""Features are computed once for passes in a row, and anew when anything below the head differs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tiny import backbone, random_pairs

from silva.federation import fixed_features
from silva.federation.features import features_of
from silva.federation.fixed_features import FixedFeatures
from silva.models.layers import Adaptation

MODEL = backbone().model
NAMES = MODEL.module_names()


def weights(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {n: torch.randn(MODEL.get_submodule(n).weight.shape, generator=draw) for n in NAMES}


def adaptation(seed: int = 1, scaling: float = 2.0) -> Adaptation:
    pairs = random_pairs(seed)
    return Adaptation(weights(0), {n: ((p, scaling),) for n, p in pairs.items()})


def pixels(seed: int) -> torch.Tensor:
    side = MODEL.config.image_size
    return torch.randn(5, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Images for which the model was run."""
    found: list[torch.Tensor] = []

    def counted(model, images, given):  # type: ignore[no-untyped-def]
        found.append(images)
        return features_of(model, images, given)

    monkeypatch.setattr(fixed_features, "features_of", counted)
    return found


def test_equal_contents_in_new_tensors_are_not_computed_again(asked: list[torch.Tensor]) -> None:
    fixed = FixedFeatures(MODEL)
    for _ in range(3):
        found = fixed(MODEL, pixels(0), adaptation())
        assert torch.equal(found, features_of(MODEL, pixels(0), adaptation()))
    assert len(asked) == 1


def test_whatever_is_below_the_head_is_looked_at(asked: list[torch.Tensor]) -> None:
    fixed, same = FixedFeatures(MODEL), adaptation()
    others = [
        (pixels(1), same),
        (pixels(0)[:3], same),
        (pixels(0), adaptation(seed=2)),
        (pixels(0), adaptation(scaling=1.0)),
        (pixels(0), replace(same, merged=weights(1))),
        (pixels(0), replace(same, branches={})),
        (pixels(0), replace(same, matmul=torch.bfloat16)),
    ]
    for number, (images, other) in enumerate(others, 1):
        fixed(MODEL, pixels(0), same)
        assert torch.equal(fixed(MODEL, images, other), features_of(MODEL, images, other))
        assert len(asked) == 2 * number


def test_threads_do_not_share(asked: list[torch.Tensor]) -> None:
    fixed = FixedFeatures(MODEL)
    fixed(MODEL, pixels(0), adaptation())
    with ThreadPoolExecutor(1) as other:
        other.submit(fixed, MODEL, pixels(0), adaptation()).result()
        other.submit(fixed, MODEL, pixels(0), adaptation()).result()
    assert len(asked) == 2
