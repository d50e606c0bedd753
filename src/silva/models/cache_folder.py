"""Where silva keeps what it can make again: models converted or fetched, digests computed."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$SILVA_CACHE``, else ``$XDG_CACHE_HOME/silva``, else ``~/.cache/silva``; may not exist yet."""
    own = os.environ.get("SILVA_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # a relative path there is to be ignored, says the XDG base directory specification
    return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "silva"
