"""All models as `/v1/models` lists them, encoded once for as long as they are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Response

from silva.serving.api.stream import json_response
from silva.serving.backend import ModelCard


class Listing:
    """A forest of many clients takes long to encode, and that would be done on the event loop."""

    def __init__(self) -> None:
        self._cards: Sequence[ModelCard] | None = None
        self._content = b""

    def whole(self, cards: Sequence[ModelCard]) -> Response:
        """All of them. `cards` is never changed in place: others are another sequence."""
        if cards is not self._cards:
            self._content, self._cards = bytes(listed(cards).body), cards
        return Response(self._content, media_type="application/json")


def listed(cards: Sequence[ModelCard]) -> Response:
    """These models, in their order."""
    return json_response({"object": "list", "data": [shown(card) for card in cards]})


def shown(card: ModelCard) -> dict[str, Any]:
    """One model."""
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by,
        "root": card.root or card.id,
        "parent": card.parent,
        "max_model_len": card.context_tokens or None,
        "path": list(card.path),
    }
