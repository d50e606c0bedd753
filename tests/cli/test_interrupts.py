from __future__ import annotations

import gc
import signal

import pytest

from silva.cli.interrupts import heeded


class Finaliser:
    """Interrupted where the interpreter can raise nothing."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)
        sum(range(10))  # the handler runs between two instructions


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_finaliser_swallows_is_raised_by_the_next_check() -> None:
    with heeded() as check:
        check()
        one = Finaliser()
        del one
        gc.collect()
        with pytest.raises(KeyboardInterrupt):
            check()


def test_an_interrupt_is_raised_at_once_too() -> None:
    with pytest.raises(KeyboardInterrupt), heeded():
        signal.raise_signal(signal.SIGINT)


def test_the_handler_of_before_comes_back_and_another_one_stays() -> None:
    before = signal.getsignal(signal.SIGINT)
    with heeded():
        pass
    assert signal.getsignal(signal.SIGINT) is before
    own = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heeded() as check:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
            check()
    finally:
        signal.signal(signal.SIGINT, own)
