"""The body that changes the version of the forest."""

from __future__ import annotations

from pydantic import Field

from silva.serving.api.schemas.base import Body


class VersionBody(Body):
    """Which version is answered for; without one, what is live on disk."""

    version: int | None = Field(None, ge=1, le=999_999_999)
