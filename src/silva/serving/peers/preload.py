"""Imported once by the process that peers are forked from: everything heavy, nothing run."""

from __future__ import annotations

import silva.serving.peers.cache
import silva.serving.peers.decode
import silva.serving.peers.prefill  # noqa: F401
