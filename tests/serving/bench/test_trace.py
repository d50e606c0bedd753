from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.errors import DataError
from silva.serving.bench import trace
from silva.serving.bench.trace import TraceRow, read_trace

MOONCAKE = [
    {"timestamp": 27000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]},
    {"timestamp": 30500, "input_length": 20, "output_length": 0, "hash_ids": []},
    {"timestamp": 27000, "input_length": 7, "output_length": 9, "more": {"a": None}},
]
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109

2023-11-16 18:15:51.2224670,879,0
"""


def jsonl(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "trace"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_mooncake_rows_come_in_order_from_0_s(tmp_path: Path) -> None:
    assert read_trace(written(tmp_path, jsonl(MOONCAKE))) == [
        TraceRow(0.0, 6758, 500, (0, 1, 2)),
        TraceRow(0.0, 7, 9),
        TraceRow(3.5, 20, 1),
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(":46.6805900", ":46.680590+00:00"),
        lambda text: text.replace("TokensX", "Tokens").replace(" 18", "T18"),
    ],
    ids=["as published", "byte order mark", "CRLF", "with a zone", "with a T"],
)
def test_azure_rows(tmp_path: Path, change: Any) -> None:
    rows = read_trace(written(tmp_path, change(AZURE)))
    assert [(r.input_tokens, r.output_tokens) for r in rows] == [(374, 44), (396, 109), (879, 1)]
    assert [r.at_s for r in rows] == pytest.approx([0.0, 4.314579, 4.541877], abs=1e-5)


def test_azure_columns_in_another_order_among_others(tmp_path: Path) -> None:
    text = 'GeneratedTokens,Model,TIMESTAMP,ContextTokens\n7,"a,b",2024-05-10 00:00:00,5\n'
    assert read_trace(written(tmp_path, text)) == [TraceRow(0.0, 5, 7)]


GOOD = MOONCAKE[0]
BAD_ROWS = [
    ({**GOOD, "timestamp": -1}, "timestamp"),
    ({**GOOD, "timestamp": True}, "timestamp"),
    ({**GOOD, "timestamp": "now"}, "timestamp"),
    ({**GOOD, "timestamp": 1e300}, "timestamp"),
    ({**GOOD, "timestamp": float("nan")}, "timestamp"),
    ({**GOOD, "input_length": 1.5}, "input_length"),
    ({**GOOD, "input_length": 10**9}, "input_length"),
    ({**GOOD, "output_length": None}, "output_length"),
    ({**GOOD, "hash_ids": [0, -1]}, "hash_ids"),
    ({**GOOD, "hash_ids": "abc"}, "hash_ids"),
    ({**GOOD, "hash_ids": [2**64]}, "hash_ids"),
    ([1], "JSON object"),
]


@pytest.mark.parametrize(("row", "what"), BAD_ROWS)
def test_a_bad_mooncake_line_is_named(tmp_path: Path, row: Any, what: str) -> None:
    path = written(tmp_path, jsonl([GOOD, GOOD]) + "\n" + jsonl([row, GOOD]))
    with pytest.raises(DataError, match=f"trace, line 4: .*{what}"):
        read_trace(path)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("2023-11-16 18:15:46,374", "2 cells"),
        ("yesterday,374,44", "not a time"),
        ("2023-02-30 18:15:46,1,1", "not a time"),
        ("2023-11-16 18:15:46,many,44", "ContextTokens"),
        ("2023-11-16 18:15:46,374,-1", "GeneratedTokens"),
        ("2023-11-16 18:15:46,374,²", "GeneratedTokens"),
        ('2023-11-16 18:15:46,"37"4,44', "line of CSV"),
    ],
)
def test_a_bad_azure_line_is_named(tmp_path: Path, line: str, what: str) -> None:
    path = written(tmp_path, AZURE + line + "\n")
    with pytest.raises(DataError, match=f"trace, line 6: .*{what}"):
        read_trace(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "no requests"),
        ("\n \n", "no requests"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no requests"),
        ("a,b,c\n1,2,3\n", "line 1: is neither"),
        (b"\xff\xfe", "line 1: is not UTF-8"),
        (b"{}\n\xff", "line 1: timestamp"),
        ("{" * 100_000, "line 1: is not JSON"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str | bytes, what: str) -> None:
    with pytest.raises(DataError, match=what):
        read_trace(written(tmp_path, content))


def test_a_missing_file_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_trace(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read"):
        read_trace(tmp_path)
    path = written(tmp_path, jsonl(MOONCAKE))
    monkeypatch.setattr(trace, "MAX_ROWS", 2)
    with pytest.raises(DataError, match="more than 2 rows"):
        read_trace(path)
    monkeypatch.setattr(trace, "MAX_LINE_BYTES", 50)
    with pytest.raises(DataError, match="line 1: has more than 50 bytes"):
        read_trace(path)


ROWS = st.lists(
    st.builds(
        TraceRow,
        st.floats(0, 1e9),
        st.integers(1, 10**7),
        st.integers(1, 10**7),
        st.lists(st.integers(0, 2**64 - 1), max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=8,
)


@given(ROWS)
def test_any_rows_are_read_back(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    plain = [
        {
            "timestamp": row.at_s * 1e3,
            "input_length": row.input_tokens,
            "output_length": row.output_tokens,
            "hash_ids": list(row.blocks),
        }
        for row in rows
    ]
    found = read_trace(written(tmp_path_factory.mktemp("rows"), jsonl(plain)))
    assert found[0].at_s == 0 and all(a.at_s <= b.at_s for a, b in pairwise(found))
    kept = [(r.input_tokens, r.output_tokens, r.blocks) for r in found]
    wanted = sorted(rows, key=lambda row: row.at_s * 1e3 / 1e3)
    assert kept == [(r.input_tokens, r.output_tokens, r.blocks) for r in wanted]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
ALIKE = st.fixed_dictionaries(
    {"timestamp": JSON, "input_length": JSON | st.just(5), "output_length": st.just(5)},
    optional={"hash_ids": JSON},
)
CELLS = st.lists(st.text(max_size=12) | st.sampled_from(["2023-11-16", "7"]), max_size=4)
CONTENT = st.one_of(
    st.binary(max_size=200),
    st.lists(JSON | ALIKE, max_size=4).map(lambda rows: jsonl(rows).encode()),
    st.lists(CELLS, max_size=4).map(
        lambda rows: (AZURE + "\n".join(",".join(row) for row in rows)).encode(
            errors="surrogatepass"
        )
    ),
)


@given(CONTENT)
def test_any_content_is_a_trace_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    try:
        rows = read_trace(written(tmp_path_factory.mktemp("any"), content))
    except DataError as error:
        assert "line " in error.where or "no requests" in error.what
        return
    assert rows and all(r.at_s >= 0 and r.input_tokens > 0 and r.output_tokens > 0 for r in rows)
