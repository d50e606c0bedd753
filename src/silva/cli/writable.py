"""Whether a file can be written, asked before time is spent on what goes into it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from silva.errors import ConfigError


def check_writable(path: Path) -> None:
    """ConfigError for a file that cannot be written: one that is there, or a new one in a folder."""
    if not _writable(path):
        raise ConfigError("cannot be written", where=path, remedy="name another file")


def _writable(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return os.access(path.parent, os.W_OK | os.X_OK)
    except OSError:  # below a file, in a folder that may not be entered, or too long a name
        return False
    return not stat.S_ISDIR(mode) and os.access(path, os.W_OK)
