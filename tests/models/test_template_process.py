"""Whose fault it is when the process for chat templates does not answer, and who is asked again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from silva.errors import HelperError
from silva.models import template_process
from silva.models.template_process import TemplateProcess

WORKER = """
import json, os, signal, socket, sys, time
started = {started!r}
with open(started, "a") as file:
    file.write("x")
number = os.path.getsize(started)
connection = socket.socket(fileno=sys.stdin.fileno())
connection.sendall(b"\\1")
connection.recv(1)
{act}
answer = json.dumps({{"text": f"worker {{number}}"}}).encode()
connection.sendall(len(answer).to_bytes(8, "little") + answer)
time.sleep(60)
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
STOPPED = "os.kill(os.getpid(), signal.SIGSTOP)"

Make = Callable[[str], TemplateProcess]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A process whose worker does something on its first question."""

    def made(act: str) -> TemplateProcess:
        worker = tmp_path / "worker.py"
        worker.write_text(WORKER.format(started=str(tmp_path / "started"), act=act))
        monkeypatch.setattr(template_process, "WORKER", worker)
        return TemplateProcess(1.0)

    return made


@pytest.mark.parametrize("act", [KILLED, STOPPED, "sys.exit(3)"])
def test_one_that_goes_away_over_a_question_is_replaced(make: Make, act: str) -> None:
    process = make(f"if number == 1: {act}")
    assert process.ask({}) == {"text": "worker 2"}
    process.close()


@pytest.mark.parametrize(("act", "how"), [(KILLED, "exit code -9"), (STOPPED, "was stopped")])
def test_what_others_do_twice_is_no_answer(make: Make, act: str, how: str) -> None:
    process = make(f"if number <= 2: {act}")
    with pytest.raises(HelperError, match=how):
        process.ask({})
    assert process.ask({}) == {"text": "worker 3"}
    process.close()


def test_what_a_question_does_twice_is_its_answer(make: Make) -> None:
    process = make("os.abort()")
    assert "exit code -6" in process.ask({})["failed"]
    process.close()


def test_the_limit_of_time_is_not_tried_twice(make: Make) -> None:
    process = make("os.kill(os.getpid(), signal.SIGPROF)")
    assert "processor time" in process.ask({})["failed"]
    assert len(template_process.WORKER.with_name("started").read_text()) == 1
    process.close()


def test_one_that_says_nothing(make: Make) -> None:
    process = make("time.sleep(60)")
    process._wall_s = 0.5
    with pytest.raises(HelperError, match=r"did not answer within 0\.5 s"):
        process.ask({})
    process.close()


def test_one_that_says_nothing_at_its_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    process = make("")
    template_process.WORKER.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(template_process, "WALL_S", 0.2)
    with pytest.raises(HelperError, match=r"does not start \(it says nothing\)"):
        process.ask({})
    process.close()


def test_one_that_does_not_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    process = make("")
    monkeypatch.setattr(template_process.sys, "executable", "/no/such/python")
    with pytest.raises(HelperError, match="does not start"):
        process.ask({})
    process.close()
