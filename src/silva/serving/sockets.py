"""Where the sockets of one server lie."""

from __future__ import annotations

import os
import tempfile

from silva.errors import ServingError

LONGEST_FOLDER = 107 - len("/cache-9999-0123456789abcdef")
"""Linux takes 107 bytes as the path of a socket."""


def sockets_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for all sockets of one run; nothing else lies there, shared memory has no name.

    Raises ServingError where there is no room, or where a socket's path would be too long.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="silva-")
    except OSError as error:
        what = f"no folder for sockets can be made: {error.strerror or error}"
        remedy = "free space there, or set TMPDIR to another folder"
        raise ServingError(what, where=tempfile.gettempdir(), remedy=remedy) from error
    if len(os.fsencode(folder.name)) > LONGEST_FOLDER:
        folder.cleanup()
        what = f"a folder for sockets would have a path of over {LONGEST_FOLDER} bytes"
        remedy = "set TMPDIR to a shorter one"
        raise ServingError(what, where=tempfile.gettempdir(), remedy=remedy)
    return folder
