"""The bodies of `/v1/classify`: files in base64 in JSON, or as they are in a form."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from silva.serving.api.schemas.base import Base64, Body, ModelName

MAX_IMAGES = 64
MOST_CLASSES = 1000


class ClassifyBody(Body):
    """Image files in base64, and how many classes are told of each."""

    model: ModelName
    images: list[Base64] = Field(min_length=1, max_length=MAX_IMAGES)
    top_k: int = Field(5, ge=1, le=MOST_CLASSES)


class ClassifyForm(Body):
    """The same as multipart/form-data: one part `images` a file."""

    model: ModelName
    images: list[Annotated[bytes, Field(min_length=1)]] = Field(min_length=1, max_length=MAX_IMAGES)
    # A form has texts alone.
    top_k: int = Field(5, ge=1, le=MOST_CLASSES, strict=False)
