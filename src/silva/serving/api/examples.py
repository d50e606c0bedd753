"""What clients send of themselves: images with labels, or texts, as the forest has them."""

from __future__ import annotations

from dataclasses import dataclass

from silva.data.labelled import EXAMPLES, LabelledFiles
from silva.data.sent_texts import SentTexts
from silva.serving.api.files import decoded
from silva.serving.api.schemas.forest import (
    ExamplesBody,
    NewcomerBody,
    TextNewcomerBody,
    TextsBody,
)


@dataclass(frozen=True)
class Kind:
    """The bodies of one kind of examples; `name` is how the kind is told."""

    name: str
    joining: type[NewcomerBody | TextNewcomerBody]
    tuned: type[ExamplesBody | TextsBody]


IMAGES = Kind("images", NewcomerBody, ExamplesBody)
TEXTS = Kind("texts", TextNewcomerBody, TextsBody)


def kind_of_examples(*, images: bool) -> Kind:
    """Of a forest of images, or of a language model."""
    return IMAGES if images else TEXTS


def examples_in(body: ExamplesBody | TextsBody) -> LabelledFiles | SentTexts:
    """As they are probed and tuned on. Raises ApiError 400."""
    if isinstance(body, TextsBody):
        return SentTexts(tuple(each.text for each in body.examples))
    files = (decoded(each.image, f"{EXAMPLES}.{n}") for n, each in enumerate(body.examples))
    return LabelledFiles(tuple(files), tuple(each.label for each in body.examples))
