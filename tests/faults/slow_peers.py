"""Main functions of peers whose steps with a prompt take long; forked processes import them."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Any

from silva.control.request import Plan
from silva.serving.engine.runner import Runner
from silva.serving.peers import start as starts
from silva.serving.peers.start import PeerStart

LONG_S = 4.0
FOR_EVER_S = 3600.0


def long_steps(start: PeerStart, last_words: Connection) -> None:
    """Every step with a prompt is long."""
    _run(start, last_words, LONG_S, "#")


def stuck_steps(start: PeerStart, last_words: Connection) -> None:
    """A step with the first attempt at a request does not end."""
    _run(start, last_words, FOR_EVER_S, "#0")


def _run(start: PeerStart, last_words: Connection, seconds: float, mark: str) -> None:
    execute = Runner.execute

    def slowly(self: Runner, plan: Plan) -> Any:
        if any(mark in chunk.request for chunk in plan.chunks):
            time.sleep(seconds)
        return execute(self, plan)

    Runner.execute = slowly  # type: ignore[method-assign]
    starts.run(start, last_words)
