"""The bodies of the admin verbs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from silva.serving.api.schemas.base import Body

MAX_PEERS = 1024

PeerName = Annotated[str, Field(min_length=1, max_length=64)]
Count = Annotated[int, Field(ge=0, le=MAX_PEERS)]


class ScaleBody(Body):
    """How many peers each named role shall have."""

    roles: dict[PeerName, Count] = Field(min_length=1, max_length=8)


class DrainBody(Body):
    """Which peer finishes and stops."""

    peer: PeerName


class SwitchBody(Body):
    """Which peer goes on in which role."""

    peer: PeerName
    role: PeerName
