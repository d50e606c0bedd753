"""`serve.kernels` chooses the attention of an engine, and is refused where it cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from serving_world import prompts, save_model

from silva.config import build
from silva.control.request import Output, Request, SamplingParams
from silva.errors import ConfigError
from silva.kernels import native, native_loaded
from silva.serving.config import ServeConfig
from silva.serving.engine.listener import Listener
from silva.serving.launch import LaunchConfig, launch
from silva.serving.make_engine import make_engine

PROMPTS = prompts(12)
NEAR = 1e-4


class Heard(Listener):
    """Tokens and their log-probabilities, by request."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.logprobs: dict[str, list[float]] = {}

    def outputs(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self.tokens.setdefault(output.request, []).extend(output.tokens)
            said = self.logprobs.setdefault(output.request, [])
            said.extend(each.logprob for each in output.logprobs)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def answers(model: Path, kernels: str) -> Heard:
    """To all prompts, from an engine with this setting."""
    kv = {"peer_bytes": 4 << 20}
    config, heard = build(ServeConfig, {"kernels": kernels, "kv": kv}, "test"), Heard()
    engine = make_engine(config, model, heard, threads=1)
    greedy = SamplingParams(temperature=0.0, max_tokens=12, logprobs=0)
    for number, prompt in enumerate(PROMPTS):
        engine.add(Request(str(number), prompt, greedy))
    while engine.step():
        pass
    return heard


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows whenever an operator looks for its compiled form."""
    found: list[str] = []
    compiled: Callable[[], ModuleType | None] = native.compiled

    def counted() -> ModuleType | None:
        found.append("compiled")
        return compiled()

    monkeypatch.setattr(native, "compiled", counted)
    return found


def test_portable_kernels_say_the_same_and_call_nothing_compiled(
    model: Path, asked_for: list[str]
) -> None:
    plain = answers(model, "portable")
    assert not asked_for
    usual = answers(model, "auto")
    assert asked_for
    assert len(plain.tokens) == len(PROMPTS)
    assert plain.tokens == usual.tokens
    for request, said in plain.logprobs.items():
        assert said == pytest.approx(usual.logprobs[request], abs=NEAR)


@pytest.mark.skipif(not native_loaded(), reason="needs the native module")
def test_native_kernels_are_what_auto_takes_where_they_were_built(model: Path) -> None:
    assert answers(model, "native").logprobs == answers(model, "auto").logprobs


def test_native_kernels_that_were_not_built_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_compiled", None)
    config = build(LaunchConfig, {"serve": {"kernels": "native"}}, "test")
    with pytest.raises(ConfigError, match=r"was not built.*`portable`") as caught:
        launch(config, nullcontext(Path("nowhere")))
    assert caught.value.where == "serve.kernels"
