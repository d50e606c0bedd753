"""The body of `/v1/classify`."""

from __future__ import annotations

from pydantic import Field

from silva.serving.api.schemas.base import Base64, Body, ModelName

MAX_IMAGES = 64


class ClassifyBody(Body):
    """Image files in base64, and how many classes are told of each."""

    model: ModelName
    images: list[Base64] = Field(min_length=1, max_length=MAX_IMAGES)
    top_k: int = Field(5, ge=1, le=1000)
