"""The bodies that change the forest: another version, a client's examples, images or texts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from silva.serving.api.schemas.base import MAX_NAME_CHARACTERS, Base64, Body

MAX_EXAMPLES = 512


class VersionBody(Body):
    """Which version is answered for; without one, what is live on disk."""

    version: int | None = Field(None, ge=1, le=999_999_999)


class ImageExample(Body):
    """An image file and the name of its class."""

    image: Base64
    label: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]


class TextExample(Body):
    """One text, whole."""

    text: str


class ExamplesBody(Body):
    """What a client's leaf is tuned on."""

    examples: list[ImageExample] = Field(min_length=1, max_length=MAX_EXAMPLES)


class NewcomerBody(ExamplesBody):
    """What a new client is routed by, and whether a leaf is tuned on it as well."""

    tune: bool = False


class TextsBody(Body):
    """The same for a forest of texts: in their order they are one sequence."""

    examples: list[TextExample] = Field(min_length=1, max_length=MAX_EXAMPLES)


class TextNewcomerBody(TextsBody):
    """What a new client is routed by, and whether a leaf is tuned on it as well."""

    tune: bool = False
