"""Where the cache peers of a server keep what they have on disk, so that a restart finds it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from silva.errors import ConfigError
from silva.models.cache_folder import cache_folder
from silva.serving.config import KvConfig


@contextlib.contextmanager
def with_folder(kv: KvConfig, port: int) -> Iterator[KvConfig]:
    """The settings with a folder for the disk tier: by port, unless they name one.

    Port 0 is that of several servers: each has the first folder that no other has now, which is
    kept for it meanwhile. No folder is made here.
    """
    parent = cache_folder() / "kv"
    if kv.cache_folder or not kv.cache_disk_bytes:
        yield kv
    elif port:
        yield replace(kv, cache_folder=str(parent / str(port)))
    else:
        folders = (parent / ("0" if number == 1 else f"0-{number}") for number in count(1))
        # A name of a socket that lies in no folder: it goes with the process, however that ends.
        with socket.socket(socket.AF_UNIX) as claim:
            folder = next(folder for folder in folders if _claimed(claim, folder))
            yield replace(kv, cache_folder=str(folder))


def _claimed(claim: socket.socket, folder: Path) -> bool:
    """Whether no other server of this network namespace has the folder; it is this one's then."""
    digest = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()
    try:
        claim.bind(f"\0silva-kv-{digest}")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise ConfigError(
            f"no folder can be claimed ({error.strerror})",
            where="serve.kv.cache_folder",
            remedy="name a folder, or a port",
        ) from error
    return True
