"""Data sets of the Hugging Face hub: `hub:<owner>/<name>`, read from their parquet files.

No script of a data set is run: only parquet files are fetched, from the set itself or from the
conversion that the hub keeps of it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from silva.data.nouns import ImageDataset
from silva.data.parquet import read_parquet
from silva.errors import DataError, MissingExtraError

PREFIX = "hub:"
_CONVERTED = "refs/convert/parquet"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def read_hub(name: str, *, split: str = "", labels: str = "") -> ImageDataset:
    """The data set `name` ("hub:owner/name" or "hub:owner/name@revision").

    Its `origin` names the commit that was read, since a set or a branch may change.

    Raises MissingExtraError without the extra `hub`, DataError when the set cannot be fetched
    (offline, unknown, private) or has no parquet files.
    """
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    if not _NAME.fullmatch(repo) or ".." in repo:
        raise DataError(f"{name!r} is no name on the hub", remedy="write hub:owner/name")
    hub = _library()
    for choice in (revision,) if revision else ("", _CONVERTED):
        folder = _fetch(hub, repo, choice)
        if files := sorted(folder.rglob("*.parquet")):
            # The library keeps each commit in a folder of its name.
            origin = f"{PREFIX}{repo}@{folder.name}" if _COMMIT.fullmatch(folder.name) else ""
            return replace(read_parquet(files, split=split, labels=labels), origin=origin)
    raise DataError(
        "no parquet files in it", where=name, remedy="download it and give the path of its folder"
    )


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError(
            "data sets of the hub need huggingface_hub", remedy="pip install 'silva[hub]'"
        ) from None
    return huggingface_hub


def _fetch(hub: Any, repo: str, revision: str) -> Path:
    try:
        folder = hub.snapshot_download(
            repo, repo_type="dataset", revision=revision or None, allow_patterns=["*.parquet"]
        )
    except Exception as error:  # the library raises its own, requests' and httpx' errors by version
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(
            f"cannot be fetched ({reason})",
            where=f"{PREFIX}{repo}",
            remedy="check name and network, or download it elsewhere and give its path",
        ) from None
    return Path(folder)
