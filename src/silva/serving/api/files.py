"""Files in JSON: base64, or a data URL as browsers make them."""

from __future__ import annotations

import base64
import binascii

from silva.serving.api.errors import bad_request


def decoded(text: str, place: str) -> bytes:
    """The file in a text; `place` names its field. Raises ApiError 400."""
    content = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"{place}: is not base64", param=place) from error
