"""Names of models, and clients that nobody knows."""

from __future__ import annotations

import pytest

from silva.serving.backend import ModelCard
from silva.serving.catalogue import Catalogue

BASE = ModelCard("m", 0, 64)
ROOT = ModelCard("m@root", 0, 64, parent="m", root="m", path=("ab",))
LEAF = ModelCard("m@c-1", 0, 64, parent="m@root", root="m", path=("ab", "cd"))
CARDS = [BASE, ROOT, LEAF]


@pytest.mark.parametrize("unknown", ["error", "root"])
def test_known_names_are_found(unknown: str) -> None:
    catalogue = Catalogue(CARDS, unknown)
    assert [catalogue.find(card.id) for card in CARDS] == CARDS
    assert list(catalogue.cards) == CARDS


def test_an_unknown_client_is_nobody_or_the_root() -> None:
    assert Catalogue(CARDS).find("m@c-9") is None
    found = Catalogue(CARDS, "root").find("m@c-9")
    assert found is not None and (found.id, found.path, found.parent) == (
        "m@c-9",
        ("ab",),
        "m@root",
    )


@pytest.mark.parametrize("name", ["", "m@", "m@cluster-7", "m@base", "m@../c", "other@c-9", "c-9"])
def test_what_is_no_clients_name_is_nobody(name: str) -> None:
    assert Catalogue(CARDS, "root").find(name) is None


def test_without_a_forest_there_is_no_root() -> None:
    assert Catalogue([BASE], "root").find("m@c-1") is None
    assert Catalogue([]).find("m") is None
