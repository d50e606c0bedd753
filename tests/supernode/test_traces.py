from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.errors import ConfigError, DataError
from silva.supernode.generate import Shape, generate
from silva.supernode.traces import read_traffic

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def test_a_trace_of_azure(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        HEADER + "2023-11-16 18:17:04.4799600,396,109\n" + "2023-11-16 18:17:03.9799600,4808,10\n"
    )
    traffic = read_traffic(path)
    assert traffic.arrival_s.tolist() == pytest.approx([0.0, 0.5])
    assert (traffic.prompt.tolist(), traffic.output.tolist()) == ([4808, 396], [10, 109])
    assert traffic.shared == ()


def test_times_are_not_those_of_the_clock_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")  # where 2:00 to 3:00 came twice on that day
    time.tzset()
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "2023-10-29 01:30:00,1,1\n2023-10-29 03:30:00,1,1\n")
    try:
        assert read_traffic(path).arrival_s.tolist() == [0.0, 7200.0]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_trace_of_mooncake(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
        {"timestamp": 3000, "input_length": 1024, "output_length": 7, "hash_ids": [0, 1]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    traffic = read_traffic(path)
    assert traffic.arrival_s.tolist() == [0.0, 3.0]
    assert traffic.shared == ((0, 1), (0, 1))
    assert traffic.block_tokens == 512


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "A,B,C\n", "line 1: the columns are not"),
        ("a.csv", HEADER + "2023-11-16 18:17:03,1,2\nnoon,1,2\n", "line 3: 'noon' is not a time"),
        ("a.csv", HEADER + "2023-11-16 18:17:03,x,2\n", "line 2: 'x' is not a length"),
        ("a.csv", HEADER + "2023-11-16 18:17:03,-5,2\n", "line 2: a prompt of -5 tokens"),
        ("a.csv", HEADER + "2023-11-16 18:17:03,5\n", "line 2: 2 of 3 columns"),
        ("a.csv", HEADER, "has no requests"),
        ("a.csv", HEADER + '"' + "a" * 200_000 + '",1,2\n', "not CSV: field larger"),
        ("a.jsonl", "\n{]\n", "line 2: not JSON"),
        ("a.jsonl", "[]\n", "line 1: not an object"),
        ("a.jsonl", '{"timestamp": "x"}\n', "line 1: timestamp is not"),
        ("a.jsonl", '{"timestamp": 1, "hash_ids": [-1]}\n', "line 1: hash_ids"),
        ("a.jsonl", '{"timestamp": 1, "input_length": 3}\n', "line 1: None is not a length"),
        ("a.jsonl", '{"timestamp": 1, "input_length": Infinity}\n', "line 1: inf is not a length"),
        ("a.txt", "", ".txt is no format"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message.replace("[", r"\[")):
        read_traffic(tmp_path / name)


@given(st.binary(max_size=80), st.sampled_from([".csv", ".jsonl"]))
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    path.write_bytes(content)
    try:
        assert len(read_traffic(path)) > 0
    except DataError:
        return


@pytest.mark.parametrize("kind", ["poisson", "bursty", "sessions"])
def test_made_up_traffic_is_what_was_asked_for(kind: str) -> None:
    shape = Shape(kind=kind, rate=20.0, seconds=400.0, prefix=1024)
    traffic = generate(shape, seed=3)
    assert len(traffic) / 400 == pytest.approx(20, rel=0.15)
    assert traffic.mean_output == pytest.approx(500, rel=0.1)
    assert (traffic.arrival_s[1:] >= traffic.arrival_s[:-1]).all()
    again, other = generate(shape, seed=3), generate(shape, seed=4)
    assert (again.arrival_s == traffic.arrival_s).all()
    assert again.shared == traffic.shared
    assert len(other) != len(traffic) or (other.prompt != traffic.prompt).any()


def test_more_made_up_requests_than_a_trace_may_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="are more than 20,000,000 in all"):
        generate(Shape(rate=1e6, seconds=1e7))


def test_bursts_vary_more_than_chance() -> None:
    def variation(kind: str) -> float:
        gaps = generate(Shape(kind=kind, rate=50.0, seconds=200.0)).arrival_s
        each = gaps[1:] - gaps[:-1]
        return float(each.std() / each.mean())

    assert variation("poisson") == pytest.approx(1.0, abs=0.1)
    assert variation("bursty") == pytest.approx(2.0, abs=0.3)


def test_turns_share_what_was_said_before() -> None:
    traffic = generate(Shape(kind="sessions", rate=5.0, seconds=100.0, prefix=1024), seed=1)
    for names, prompt in zip(traffic.shared, traffic.prompt, strict=True):
        assert len(names) == prompt // traffic.block_tokens
        assert names[:8] == tuple(range(8))
    lists = sorted(traffic.shared)
    continued = sum(b[: len(a)] == a for a, b in pairwise(lists))
    assert continued > len(lists) / 3
