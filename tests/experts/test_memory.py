"""Memory that ranks write into: what is not that of a living rank is not mapped."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from silva.errors import ServingError
from silva.experts.memory import OwnMemory, PeerMemory


def test_what_one_writes_the_other_sees() -> None:
    own = OwnMemory(0, 5000)
    peer = PeerMemory(own.member)
    assert not own.bytes.any() and peer.alive()
    peer.bytes[4999] = 7
    assert own.bytes[4999] == 7


@pytest.mark.parametrize(
    "change", [{"token": bytes(16)}, {"size": 4096}, {"descriptor": 2**30}, {"pid": 2**31 - 1}]
)
def test_something_else_is_not_mapped(change: dict[str, object]) -> None:
    own = OwnMemory(3, 5000)
    with pytest.raises(ServingError, match="rank 3 cannot be reached"):
        PeerMemory(replace(own.member, **change))


def test_memory_that_was_let_go_is_not_mapped() -> None:
    own = OwnMemory(3, 5000)
    member = own.member
    del own
    spare = os.open("/dev/zero", os.O_RDWR)
    os.dup2(spare, member.descriptor)
    with pytest.raises(ServingError, match="something else"):
        PeerMemory(member)
    for descriptor in {spare, member.descriptor}:
        os.close(descriptor)


@pytest.mark.parametrize("size", [0, 2**62, 2**70])
def test_memory_that_cannot_be_had(size: int) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ServingError, match="cannot be had"):
        OwnMemory(0, size)
    assert os.listdir("/proc/self/fd") == before
