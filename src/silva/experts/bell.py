"""A thread that sleeps on a rank's bell while the rank has nothing to compute."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable

from silva.experts.board import Board
from silva.experts.flags import Flags

LOOK_S = 1.0
"""How often the owner is called that has to look for itself now and then."""


class Bell:
    """Calls `rung()`, on its own thread, when a vote begins that the owner should take part in."""

    def __init__(self, board: Board, flags: Flags, rung: Callable[[], None]) -> None:
        self._board, self._flags, self._rung = board, flags, rung
        self._number, self._looks, self._over = 0, False, False
        self._wanted = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
        self._thread.start()
        # A thread that is in compiled code when the interpreter goes ends the process with an abort.
        atexit.register(self.close)

    def sleep_until(self, number: int, *, looks: bool = False) -> None:
        """The owner goes to sleep before this vote; it must look once more after this.

        `looks`: it is called every `LOOK_S` seconds, too.
        """
        self._board.sleeps = True
        # A call of the system, which no processor lets the owner's next look go before.
        self._flags.post(self._board.bell, [self._board.rung])
        with self._wanted:
            self._number, self._looks = number, looks
            self._wanted.notify()

    def wake(self) -> None:
        """The owner is awake: nobody needs to ring."""
        if self._board.sleeps:
            self._board.sleeps = False
            with self._wanted:
                number, self._number = self._number, 0
            self._flags.post(self._board.bell, [number])

    def close(self) -> None:
        """End the thread and wait for it; then nobody looks at the board's memory any more."""
        atexit.unregister(self.close)
        with self._wanted:
            self._over = True
            number, self._number = self._number, 0
            self._wanted.notify()
        if number:
            self._flags.post(self._board.bell, [number])
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wanted:
                while not (self._number or self._over):
                    self._wanted.wait()
                if self._over:
                    return
                number = self._number
            late = self._flags.missing([self._board.bell], number, LOOK_S)
            with self._wanted:
                # It may have woken up meanwhile, and gone to sleep again before another vote.
                calls = self._number == number and (self._looks or not late)
                if calls:
                    self._number = 0
            if calls:
                self._rung()
