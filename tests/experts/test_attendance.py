"""What the log tells of ranks that go and come."""

from __future__ import annotations

import logging

import pytest

from silva.experts.attendance import Attendance


def test_each_going_and_coming_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    attendance = Attendance({3})
    with caplog.at_level(logging.WARNING, "silva.experts"):
        for dead in ({3}, {1, 2, 3}, {1, 2, 3}, {2}, {2}, set(), set()):
            attendance.note(dead)
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(" after")[0].split(";")[0] for line in told] == [
        "ranks [1, 2] are out",
        "ranks [1, 3] are in again",
        "ranks [2] are in again",
    ]


def test_a_place_that_is_taken_and_lost_between_two_votes_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attendance = Attendance(())
    with caplog.at_level(logging.WARNING, "silva.experts"):
        attendance.note({0})
        attendance.note({1})
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("ranks [0] are out") and lines[1].startswith("ranks [1] are out")
    assert lines[2].startswith("ranks [0] are in again after")
