"""The files of the page: read once, looked up by name, never a path made from what was asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from silva.errors import ServingError

FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One file as it is sent."""

    content: bytes
    media_type: str
    etag: str
    """Of the content, in quotes as the header has it."""


def page_files(folder: Path = FOLDER) -> Mapping[str, PageFile]:
    """All files of the page by name. Raises ServingError where they were not installed."""
    found = {path.name: _read(path) for path in sorted(folder.glob("*.*")) if path.suffix in _KINDS}
    if INDEX not in found:
        raise ServingError("the page's files are not here", where=folder, remedy="reinstall silva")
    return found


def etag_of(content: bytes) -> str:
    """A strong validator of the content."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    return PageFile(content, _KINDS[path.suffix], etag_of(content))
