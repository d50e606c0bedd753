"""Shares of the time that links carry something, while instances come and go between roles."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from silva.supernode.carried import Carried
from silva.supernode.cluster import Cluster

sys.path.insert(0, str(Path(__file__).parent))
from small import small_system

SYSTEM = small_system()


def carried(prefill: int, decode: int) -> Carried:
    """Two seconds of hand-overs and one of reads."""
    assert SYSTEM.prefill.dies == 8
    found = Carried(Cluster(prefill=prefill, decode=decode), SYSTEM)
    found.hand_over(1.5)
    found.hand_over(0.5)
    found.read(1.0)
    return found


def test_hand_overs_have_a_link_for_each_die_and_reads_one_for_each_instance() -> None:
    assert carried(2, 5).shares(10.0, ()) == pytest.approx({"hand-over": 2 / 160, "cache": 1 / 20})


def test_instances_that_do_both_read_as_well() -> None:
    assert carried(0, 5).shares(10.0, ())["cache"] == pytest.approx(1 / 50)


def test_links_are_counted_for_as_long_as_their_instance_computes_prompts() -> None:
    more = [(4.0, "decode-3", "prefill-2"), (6.0, "decode-2", "prefill-3")]
    less = [(9.0, "prefill-2", "decode-3")]
    # Two all the time, one more for 6 s and one for 4 s.
    assert carried(2, 5).shares(10.0, more)["cache"] == pytest.approx(1 / 30)
    assert carried(2, 5).shares(10.0, [*more, *less])["hand-over"] == pytest.approx(2 / (29 * 8))
