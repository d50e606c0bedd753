"""A computing peer's sign of life: a step may be longer than any silence that the front allows."""

from __future__ import annotations

import threading

from silva.serving.peers.start import PeerStart
from silva.serving.wire.messages import Beat
from silva.serving.wire.star import Ray, address, heart_of

BEAT_S = 0.5


class Heart:
    """Beats on a thread of its own, over a socket of its own: sockets belong to one thread.

    Time is counted in beats: a process that was stopped for a while was not in a step meanwhile.
    """

    def __init__(self, start: PeerStart) -> None:
        self._where, self._identity = address(start.folder, "hub"), heart_of(start.identity)
        self._turns = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heart")
        self._thread.start()

    def turn(self) -> None:
        """The peer's own thread begins another turn of its loop."""
        self._turns += 1

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        ray = Ray(self._where, self._identity)
        seen, busy_s = self._turns, 0.0
        while not self._over.wait(BEAT_S):
            busy_s = busy_s + BEAT_S if seen == self._turns else 0.0
            seen = self._turns
            ray.send(Beat(busy_s))
        ray.close()
