"""`silva`, with its main thread profiled between two signals.

    python benchmarks/profiled_front.py FILE serve ...

SIGUSR1 begins, SIGUSR2 ends and writes FILE for `pstats`. Times are the thread's processor time: a
front that waits for its peers does nothing. Other threads and processes are not slowed down.
"""

from __future__ import annotations

import cProfile
import signal
import sys
import time


def listen(file: str) -> None:
    """From now on the signals of this process begin and end the profile."""
    profiler = cProfile.Profile(time.thread_time)

    def end() -> None:
        profiler.disable()
        profiler.dump_stats(file)

    signal.signal(signal.SIGUSR1, lambda *_: profiler.enable())
    signal.signal(signal.SIGUSR2, lambda *_: end())


if __name__ == "__main__":
    from silva.cli.main import run

    listen(sys.argv.pop(1))
    run()
