"""From a fresh process to a working peer."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from silva.serving.config import ServeConfig
from silva.serving.wire.messages import Role


@dataclass(frozen=True)
class PeerStart:
    """All a peer's process is told. The token opens the memory of the others of this run."""

    name: str
    role: Role
    identity: str
    folder: Path
    model: Path
    config: ServeConfig
    token: bytes
    threads: int
    log_level: int


def run(start: PeerStart) -> None:
    """The main function of a peer's process."""
    # The front ends its peers, by message; a Ctrl-C or SIGTERM for the whole group must let them
    # finish first. They never outlive it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True, name="parent").start()
    logging.basicConfig(
        level=start.log_level,
        format=f"%(asctime)s %(levelname).1s {start.name} %(message)s",
        force=True,
    )
    if start.role == "prefill":
        from silva.serving.peers.prefill import PrefillPeer as Peer
    elif start.role == "decode":
        from silva.serving.peers.decode import DecodePeer as Peer
    else:
        from silva.serving.peers.cache import CachePeer as Peer
    Peer(start).run()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
