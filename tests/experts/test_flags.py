from __future__ import annotations

import ctypes
import platform
import threading
import time

import pytest

from silva.errors import ServingError
from silva.experts import futex
from silva.experts.flags import Flags, NativeFlags, PortableFlags, flags_for
from silva.kernels import native_loaded
from silva.kernels.native import Backend

pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
BACKENDS: list[Backend] = ["portable"] + (["native"] if native_loaded() else [])


@pytest.fixture(params=BACKENDS)
def flags(request: pytest.FixtureRequest) -> Flags:
    return flags_for(request.param)


def test_who_waits_is_woken_and_sees_what_came_before(flags: Flags) -> None:
    words = (ctypes.c_uint32 * 4)()
    address = ctypes.addressof(words)

    def post() -> None:
        time.sleep(0.05)
        flags.post(address, [2**32 + 7, 1, 2])

    thread = threading.Thread(target=post)
    thread.start()
    before = time.process_time()
    assert flags.missing([address], 7, 60.0) == []
    assert list(words) == [7, 1, 2, 0]
    thread.join()
    assert time.process_time() - before < 5


def test_what_does_not_come_in_time_is_named(flags: Flags) -> None:
    words = (ctypes.c_uint32 * 3)(5, 4, 5)
    at = ctypes.addressof(words)
    assert flags.missing([at, at + 4, at + 8], 5, 0.0) == [1]
    assert flags.missing([at, at + 4, at + 8], 6, 0.01) == [0, 1, 2]
    assert flags.missing([], 6, 60.0) == []


def test_auto_is_compiled_where_that_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(flags_for(), NativeFlags if native_loaded() else PortableFlags)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ServingError, match="x86-64"):
        flags_for("portable")
