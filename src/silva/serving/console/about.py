"""What the page has to know before it asks anything: nothing that a caller could not find out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from silva import __version__
from silva.serving.api.server import Server

Kind = Literal["text", "image"]


@dataclass(frozen=True)
class Answers:
    """What the models of a server answer to."""

    kind: Kind
    chat: bool = False
    """Whether conversations are continued, and not only texts."""
    labels: tuple[str, ...] = ()
    """Classes of the forest's images."""


def told(server: Server, answers: Answers, samples: Sequence[str]) -> dict[str, Any]:
    """Plain JSON types. `samples`: what is on the pictures that the page may offer."""
    cards = server.backend.models()
    return {
        "silva": __version__,
        "kind": answers.kind,
        "chat": answers.chat,
        "base": cards[0].id if cards else None,
        "forest": server.forest is not None,
        "api_keys": len(server.keys) > 0,
        "admin_keys": len(server.admin_keys) > 0,
        "samples": list(samples),
    }
