from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from silva.errors import ServingError
from silva.experts import futex
from silva.experts.flags import flags_for
from silva.experts.meeting import Card, Meeting
from silva.experts.memory import Member
from silva.experts.waiting import await_all


def card(rank: int, pid: int = 7) -> Card:
    member = Member(rank, pid, 3, 4096, bytes(16))
    return Card(member, member)


def test_cards_are_found_replaced_and_known_by_their_process(tmp_path: Path) -> None:
    meeting = Meeting(tmp_path, 2)
    assert meeting.cards() == {} and meeting.card(0) is None
    meeting.show(card(1))
    assert meeting.party(meeting.cards()) == 0  # rank 0 is missing
    meeting.show(card(0))
    party = meeting.party(meeting.cards())
    assert party != 0
    meeting.show(replace(card(0), party=party))
    assert meeting.card(0) == replace(card(0), party=party)
    assert meeting.party(meeting.cards()) == party  # who begins with whom is no part of it
    meeting.show(card(0, pid=8))
    assert meeting.party(meeting.cards()) not in (0, party)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experts-0", "experts-1"]


def test_a_card_that_is_none_is_no_card(tmp_path: Path) -> None:
    meeting = Meeting(tmp_path, 1)
    for content in (b"", b"{", b'{"party": 3}', b"\xff"):
        (tmp_path / "experts-0").write_bytes(content)
        assert meeting.card(0) is None
    with pytest.raises(ServingError, match="cannot meet"):
        Meeting(tmp_path / "nowhere", 1).show(card(0))


@pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
def test_a_rank_that_is_slow_or_silent_for_too_long_counts_as_dead() -> None:
    words = (ctypes.c_uint32 * 3)(5, 4, 4)
    at = ctypes.addressof(words)
    addresses = {rank: at + 4 * rank for rank in range(3)}
    looks: list[list[int]] = []

    def late_one() -> None:
        time.sleep(0.1)
        flags_for().post(at + 4, [5])

    thread = threading.Thread(target=late_one)
    thread.start()
    dead = await_all(
        flags_for(),
        addresses,
        5,
        alive=lambda rank: True,
        patience_s=0.5,
        check=lambda late: looks.append(list(late)),
    )
    thread.join()
    assert dead == {2}  # its process lives, but nothing comes of it
    assert looks[0] == [1, 2] and looks[-1] == [2]


@pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
def test_what_a_check_raises_ends_the_waiting() -> None:
    words = (ctypes.c_uint32 * 1)(0)

    def refuse(late: object) -> None:
        raise ServingError(f"no more of {late}")

    with pytest.raises(ServingError, match=r"no more of \[3\]"):
        await_all(
            flags_for(),
            {3: ctypes.addressof(words)},
            5,
            alive=lambda rank: True,
            patience_s=60.0,
            check=refuse,
        )
