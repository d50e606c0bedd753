"""multipart/form-data (RFC 7578) of a whole body: its parts in their order.

A body is cut at its boundary, in time that grows with its length alone. Headers are read by the
standard library; of them only the name of the field counts: a file's name is never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser

from silva.serving.api.errors import ApiError, bad_request

FORM = "multipart/form-data"
MAX_KIND_CHARACTERS = 512
"""Of the header that names the boundary."""
MAX_BOUNDARY = 70
"""Characters (RFC 2046, section 5.1.1)."""
MAX_HEADER_BYTES = 2048
"""All headers of one part."""
_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Part:
    """One field: its name, and what it is filled with."""

    name: str
    content: bytes

    def text(self) -> str:
        """The content as text. Raises ApiError 400."""
        try:
            return self.content.decode()
        except UnicodeDecodeError as error:
            place = self.name[:80]
            raise bad_request(f"{place}: is not UTF-8", param=place) from error


def boundary_of(kind: str) -> bytes:
    """The boundary that a content-type names. Raises ApiError 400."""
    if len(kind) <= MAX_KIND_CHARACTERS:
        message = Message()
        message["content-type"] = kind
        found = message.get_param("boundary")
        if isinstance(found, str) and found.isascii() and found.isprintable():
            boundary = found.rstrip(" ")
            if 0 < len(boundary) <= MAX_BOUNDARY:
                return boundary.encode()
    raise _malformed(f"its content-type names no boundary of 1 to {MAX_BOUNDARY} characters")


def parts_of(body: bytes, boundary: bytes, most: int) -> list[Part]:
    """The parts between delimiters; nothing may come before the first and after the last.

    Raises ApiError 400, also for more than `most` parts.
    """
    delimiter = b"--" + boundary
    if not body.startswith(delimiter):
        raise _malformed("the body does not begin with its boundary")
    pieces = body[len(delimiter) :].split(b"\r\n" + delimiter, most + 1)
    *inner, last = pieces
    if len(inner) > most:
        raise bad_request(f"form: more than {most} parts", code="too_many_parts")
    if not last.startswith(b"--") or last[2:].strip(b" \t\r\n"):
        raise _malformed("the body does not end with its boundary")
    return [_part(piece, n) for n, piece in enumerate(inner)]


def _part(piece: bytes, n: int) -> Part:
    """What stands between two delimiters."""
    padding = piece.find(b"\r\n", 0, MAX_HEADER_BYTES)
    if padding < 0 or piece[:padding].strip(b" \t"):
        raise _malformed(f"part {n} does not begin on a line of its own")
    end = piece.find(_END, padding, padding + MAX_HEADER_BYTES)
    if end < 0:
        raise _malformed(f"part {n} has no end of its headers within {MAX_HEADER_BYTES} bytes")
    headers = BytesHeaderParser().parsebytes(piece[padding + 2 : end])
    return Part(_name(headers, n), piece[end + len(_END) :])


def _name(headers: Message, n: int) -> str:
    said = headers.get_all("content-disposition", [])
    name = headers.get_param("name", header="content-disposition")
    if len(said) != 1 or headers.get_content_disposition() != "form-data":
        raise _malformed(f"part {n} has not one content-disposition of form-data")
    if not isinstance(name, str) or not name:
        raise _malformed(f"part {n} has no name")
    return name


def _malformed(what: str) -> ApiError:
    return bad_request(f"form: {what}", code="invalid_form")
