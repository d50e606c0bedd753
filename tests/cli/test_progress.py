from __future__ import annotations

import pytest

from silva.cli.progress import TITLES, stages
from silva.federation.run import Progress


def steps(*names: str) -> list[Progress]:
    return [Progress(name, done, 2, "a note") for name in names for done in (1, 2)]


def test_a_bar_a_stage_stays(capsys: pytest.CaptureFixture[str]) -> None:
    with stages() as show:
        for step in steps("root", "report", "of no title"):
            show(step)
    shown = capsys.readouterr()
    assert shown.out == ""
    for title in (TITLES["root"], TITLES["report"], "of no title"):
        assert title in shown.err
    assert shown.err.count("2/2") == 3


def test_without_a_terminal_nothing_is_shown_that_would_not_stay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stages(keep=False) as show:
        for step in steps("verify", "predict"):
            show(step)
    assert capsys.readouterr() == ("", "")
