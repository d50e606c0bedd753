"""The models that one server can be asked for, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from silva.adapters.names import check_client_name
from silva.errors import ForestError
from silva.serving.backend import ModelCard


class Catalogue:
    """Cards by name; where clients that no forest knows are let in, they are answered by its root."""

    def __init__(self, cards: Sequence[ModelCard], unknown_client: str = "error") -> None:
        """`cards`: the base first. `unknown_client`: "error", or "root"."""
        self.cards = tuple(cards)
        self._by_name = {card.id: card for card in cards}
        base = self.cards[0].id if cards else ""
        self._prefix = f"{base}@"
        self._root = self._by_name.get(f"{base}@root") if unknown_client == "root" else None

    def find(self, name: str) -> ModelCard | None:
        """The card of a name; None where there is none."""
        card = self._by_name.get(name)
        if card is not None or self._root is None or not name.startswith(self._prefix):
            return card
        try:
            check_client_name(name.removeprefix(self._prefix))
        except ForestError:
            return None
        return replace(self._root, id=name, parent=self._root.id)
