"""Which adapters stay in memory, and which go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_world import tiny
from path_cases import Grove

from silva.models.language import LanguageModel
from silva.serving.engine.tiers import TierError, Tiers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return tiny(tmp_path_factory.mktemp("model"))[1]


@pytest.fixture
def grove(model: LanguageModel, tmp_path: Path) -> Grove:
    return Grove(tmp_path / "objects", model)


def sizes(grove: Grove, model: LanguageModel) -> dict[str, int]:
    found = {}
    for name, digest in grove.digests.items():
        tiers = Tiers(grove.folder, model, 0)
        (tier,) = tiers.hold((digest,))
        found[name] = tier.size_bytes
        assert tiers.used_bytes == tier.size_bytes
        tiers.release((digest,))
        assert (tiers.used_bytes, len(tiers)) == (0, 0)
    return found


def test_what_is_used_least_recently_goes_first(grove: Grove, model: LanguageModel) -> None:
    size = sizes(grove, model)
    room = size["root"] + size["cluster-0"] + size["c-0"] + size["c-2"]
    tiers = Tiers(grove.folder, model, room)
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
    size, tiers = sizes(grove, model), Tiers(grove.folder, model, 1)
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
    tiers = Tiers(grove.folder, model, 0)
    with pytest.raises(TierError, match="damaged"):
        tiers.hold(grove.path("c-0"))
    assert (len(tiers), tiers.used_bytes) == (0, 0)


def test_a_tier_of_another_model_is_refused(grove: Grove, tmp_path: Path) -> None:
    other: Any = tiny(tmp_path / "other", hidden_size=96)[1]
    tiers = Tiers(grove.folder, other, 1 << 20)
    with pytest.raises(TierError, match="fit"):
        tiers.hold(grove.path("root"))
