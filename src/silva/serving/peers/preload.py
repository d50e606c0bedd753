"""Imported once by the process that peers are forked from: everything heavy, nothing run.

A SIGTERM for the whole group leaves that process alone, as it does the peers: they have to finish
first, and one that dies meanwhile is replaced. It ends once the front and all peers have ended.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # first: the imports take seconds

import silva.serving.peers.cache  # noqa: E402
import silva.serving.peers.decode  # noqa: E402
import silva.serving.peers.following  # noqa: E402
import silva.serving.peers.prefill  # noqa: E402, F401
