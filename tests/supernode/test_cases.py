from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.errors import ConfigError
from silva.supernode.cases import answer, answered, read_cases
from silva.supernode.system import load_system

SYSTEM = load_system("cloudmatrix-infer")
DECODE = {
    "name": "d",
    "kind": "decode",
    "batch_per_npu": 96,
    "kv_len": 4096,
    "output_len": 256,
    "mtp": True,
    "acceptance": 0.7,
    "microbatch": True,
}
PREFILL = {
    "name": "p",
    "kind": "prefill",
    "tokens_per_npu": 16384,
    "prompt_len": 4096,
    "reuse": 0.5,
    "cache": "ub",
    "microbatch": True,
    "balance": "default",
}
MODELS = {"name": "m", "kind": "model-cache", "policy": "local", "models": 8, "instances": 8}


def test_cases_come_back_in_order_with_their_answers() -> None:
    cases: list[dict[str, Any]] = [DECODE, PREFILL, MODELS]
    answers = answered(SYSTEM, cases)
    for case, found in zip(cases, answers, strict=True):
        assert {key: found[key] for key in case} == case
    new = [found.keys() - case.keys() for case, found in zip(cases, answers, strict=True)]
    assert new == [
        {"tpot_ms", "iteration_ms", "tokens_per_s_per_npu", "layer_us"},
        {"tokens_per_s_per_npu", "ttft_ms", "layer_ms"},
        {"cold_s", "warm_s", "switch_s", "dram_copies"},
    ]
    assert json.loads(json.dumps(answers)) == answers


def test_rate_and_time_agree() -> None:
    found = answer(SYSTEM, DECODE)
    assert found["tokens_per_s_per_npu"] == pytest.approx(96 / found["tpot_ms"] * 1e3)
    assert found["iteration_ms"] == pytest.approx(1.7 * found["tpot_ms"])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({**DECODE, "batch": 96}, "batch: unknown field; did you mean"),
        ({**DECODE, "kind": "decoding"}, "kind 'decoding' is not known; known: decode"),
        ({"batch_per_npu": 96}, "has no kind"),
        ({"kind": ["decode"]}, "is not known"),
        ({"kind": "decode", "batch_per_npu": 96}, "kv_len is missing"),
        ({**DECODE, "acceptance": 1.5}, "1.5 is out of range"),
        ({**DECODE, "batch_per_npu": 0}, "0.0 is out of range"),
        ({**DECODE, "mtp": 1}, "1 is not a truth value"),
        ({**DECODE, "name": 1}, "a name is text"),
        ({**PREFILL, "cache": "ssd"}, "'ssd' is not allowed; allowed: none, ub, vpc"),
        ({**PREFILL, "reuse": 1.0}, "1.0 is out of range"),
        ({**PREFILL, "balance": None}, "None is not text"),
        ({**MODELS, "policy": "pool"}, "allowed: none, local, ems"),
        ({**MODELS, "models": 0}, "0 is out of range"),
        ([], "not an object"),
    ],
)
def test_a_mistake_names_its_case(case: Any, message: str) -> None:
    with pytest.raises(ConfigError, match="case 2.*" + re.escape(message)):
        answered(SYSTEM, [DECODE, case])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[\n{"kind": }]', "line 2 is not JSON"),
        (b"{}", "not a list"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "cases.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_cases(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_cases(tmp_path / "none.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)
)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from([*DECODE, "x"]), JSON))
def test_any_object_is_answered_or_refused(case: dict[str, Any]) -> None:
    with suppress(ConfigError):
        assert "tpot_ms" in answer(SYSTEM, {**case, "kind": "decode"})
