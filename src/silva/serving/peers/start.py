"""From a fresh process to a working peer."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from silva.errors import SilvaError
from silva.serving.config import ServeConfig
from silva.serving.process_name import show_as
from silva.serving.spread import follows
from silva.serving.wire.messages import Role

if TYPE_CHECKING:
    from silva.serving.peers.cache import CachePeer
    from silva.serving.peers.computing import ComputingPeer


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
    rank: int = 0
    """Among the peers of its role that share experts."""


def run(start: PeerStart, last_words: Connection) -> None:
    """The main function of a peer's process. `last_words` hears why it cannot start, if it cannot
    because of its settings or of what the machine does not have.
    """
    show_as(start.name)
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
    try:
        peer = _peer(start)
    except SilvaError as error:
        last_words.send(str(error))
        sys.exit(1)
    last_words.close()
    peer.run()


def _peer(start: PeerStart) -> ComputingPeer | CachePeer:
    # The preloading process has imported all of them.
    from silva.serving.peers.cache import CachePeer
    from silva.serving.peers.decode import DecodePeer
    from silva.serving.peers.following import FollowingPeer
    from silva.serving.peers.prefill import PrefillPeer

    match start.role:
        case "prefill":
            return FollowingPeer(start) if follows(start.role, start.rank) else PrefillPeer(start)
        case "decode":
            return DecodePeer(start)
        case "cache":
            return CachePeer(start)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
