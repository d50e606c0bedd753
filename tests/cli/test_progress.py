from __future__ import annotations

import pytest

from silva.cli.progress import TITLES, stages
from silva.errors import DataError
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


def watched(*given: Progress, error: type[BaseException] | None = None) -> None:
    """Steps of a command that ends well, or with an error."""
    with stages() as show:
        for step in given:
            show(step)
        if error:
            raise error("not a readable image")


def test_where_images_cannot_be_read_no_bar_stays(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError):
        watched(Progress("images", 64, 200), error=DataError)
    assert capsys.readouterr() == ("", "")


def test_images_that_were_read_have_a_bar_before_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    read = (Progress("images", 64, 200), Progress("images", 200, 200))
    watched(*read, Progress("root", 2, 2))
    shown = capsys.readouterr().err
    assert TITLES["images"] in shown and "200/200" in shown


def test_an_interrupted_run_leaves_its_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        watched(Progress("root", 1, 9), error=KeyboardInterrupt)
    assert "1/9" in capsys.readouterr().err


def test_without_a_terminal_nothing_is_shown_that_would_not_stay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stages(keep=False) as show:
        for step in steps("verify", "predict"):
            show(step)
    assert capsys.readouterr() == ("", "")
