"""Which adapters stay in memory, and which go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_world import tiny
from path_cases import Grove

from silva.models.language import LanguageModel
from silva.models.mixed_language import pack
from silva.serving.engine.tiers import TierError, Tiers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return tiny(tmp_path_factory.mktemp("model"))[1]


@pytest.fixture
def grove(model: LanguageModel, tmp_path: Path) -> Grove:
    return Grove(tmp_path / "objects", model)


def tiers_of(grove: Grove, model: LanguageModel, capacity_bytes: int) -> Tiers:
    return Tiers(grove.folder, lambda tier: pack(tier, model), capacity_bytes)


def sizes(grove: Grove, model: LanguageModel) -> dict[str, int]:
    found = {}
    for name, digest in grove.digests.items():
        tiers = tiers_of(grove, model, 0)
        (tier,) = tiers.hold((digest,))
        found[name] = tier.size_bytes
        assert tiers.used_bytes == tier.size_bytes
        tiers.release((digest,))
        assert (tiers.used_bytes, len(tiers)) == (0, 0)
    return found


def test_what_is_used_least_recently_goes_first(grove: Grove, model: LanguageModel) -> None:
    size = sizes(grove, model)
    room = size["root"] + size["cluster-0"] + size["c-0"] + size["c-2"]
    tiers = tiers_of(grove, model, room)
    for client in ("c-0", "c-2", "c-0"):
        tiers.hold(grove.path(client))
        tiers.release(grove.path(client))
    assert (tiers.read, tiers.found, tiers.used_bytes) == (4, 5, room)
    tiers.hold((grove.digests["c-1"],))
    tiers.release((grove.digests["c-1"],))
    assert tiers.used_bytes <= room
    before = tiers.read
    tiers.hold(grove.path("c-0"))
    assert tiers.read == before
    tiers.hold(grove.path("c-2"))
    assert tiers.read == before + 1


def test_what_somebody_holds_stays_though_there_is_no_room(
    grove: Grove, model: LanguageModel
) -> None:
    size, tiers = sizes(grove, model), tiers_of(grove, model, 1)
    held = tiers.hold(grove.path("c-0"))
    again = tiers.hold(grove.path("c-0"))
    assert [id(t) for t in held] == [id(t) for t in again]
    assert tiers.used_bytes == size["root"] + size["cluster-0"] + size["c-0"]
    tiers.release(grove.path("c-0"))
    assert len(tiers) == 3
    tiers.release(grove.path("c-0"))
    assert (len(tiers), tiers.used_bytes) == (0, 0)


def test_a_path_that_is_not_whole_holds_nothing(grove: Grove, model: LanguageModel) -> None:
    (grove.folder / grove.digests["c-0"]).write_bytes(b"no tier")
    tiers = tiers_of(grove, model, 0)
    with pytest.raises(TierError, match="cannot be read") as caught:
        tiers.hold(grove.path("c-0"))
    assert "damaged" in str(caught.value.__cause__) and str(grove.folder) not in str(caught.value)
    assert (len(tiers), tiers.used_bytes) == (0, 0)


def test_a_tier_of_another_model_is_refused(grove: Grove, tmp_path: Path) -> None:
    other: Any = tiny(tmp_path / "other", hidden_size=96)[1]
    tiers = tiers_of(grove, other, 1 << 20)
    with pytest.raises(TierError) as caught:
        tiers.hold(grove.path("root"))
    assert "does not fit" in str(caught.value.__cause__)
