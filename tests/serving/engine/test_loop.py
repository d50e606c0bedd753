"""The engine's thread: orders from other threads, sleep when there is nothing to do, and its end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engine_world import BLOCK, CONTEXT, GREEDY, tokens_of

from silva.control.request import Output, Request, SamplingParams
from silva.control.state import Settings
from silva.errors import ServingError
from silva.models.language import LanguageModel
from silva.serving.engine.engine import Engine
from silva.serving.engine.kv import KVMemory, KVShape
from silva.serving.engine.listener import Listener
from silva.serving.engine.loop import EngineThread, StoppedError

PATIENCE_S = 60.0
ENDLESS = SamplingParams(temperature=0.0, max_tokens=CONTEXT)


def make(model: LanguageModel, grammars: Any = None) -> Engine:
    shape = KVShape.of(model.config, BLOCK, model.dtype)
    settings = Settings(400, CONTEXT, BLOCK)
    return Engine(model, KVMemory(shape, 400), settings, Listener(), grammars=grammars)


@pytest.fixture
def thread(model: LanguageModel) -> Iterator[EngineThread]:
    thread = EngineThread(make(model))
    thread.start()
    yield thread
    thread.stop()
    counts = thread.engine.counts()
    assert counts.blocks_free == counts.blocks


class Asker:
    """Submits, and waits for what comes."""

    def __init__(self, thread: EngineThread) -> None:
        self.thread = thread
        self.tokens: dict[str, list[int]] = {}
        self.errors: dict[str, ServingError] = {}
        self.over: dict[str, threading.Event] = {}
        self.heard = threading.Event()

    def submit(self, name: str, prompt: Any, sampling: SamplingParams = GREEDY) -> None:
        self.tokens[name], self.over[name] = [], threading.Event()

        def on_output(output: Output) -> None:
            assert output.request == name and not self.over[name].is_set()
            self.tokens[name].extend(output.tokens)
            self.heard.set()
            if output.finish:
                self.over[name].set()

        def on_error(error: ServingError) -> None:
            self.errors[name] = error
            self.over[name].set()

        request = Request(name, tuple(prompt), sampling, time.monotonic())
        self.thread.submit(request, on_output, on_error)

    def wait(self) -> None:
        for event in self.over.values():
            assert event.wait(PATIENCE_S)


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def test_requests_from_several_threads_are_answered(thread: EngineThread, expected: Any) -> None:
    asker = Asker(thread)
    prompts = {f"r{n}": tokens_of(n, n) for n in (1, 5, 16, 50)}
    threads = [threading.Thread(target=asker.submit, args=item) for item in prompts.items()]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    asker.wait()
    assert not asker.errors
    for name, prompt in prompts.items():
        answer = expected(prompt)
        assert asker.tokens[name][: answer.tie] == answer.tokens[: answer.tie]
    until(lambda: thread.counts.running == 0)


def test_a_step_is_delivered_as_one(model: LanguageModel) -> None:
    deliveries: list[Callable[[], None]] = []
    thread = EngineThread(make(model), deliver=deliveries.append)
    asker = Asker(thread)
    for name in "abcd":
        asker.submit(name, tokens_of(6, ord(name)), SamplingParams(max_tokens=5))
    thread.start()
    until(lambda: len(deliveries) == 5)
    assert asker.tokens == {name: [] for name in "abcd"}
    for work in deliveries:
        work()
    asker.wait()
    assert all(len(tokens) == 5 for tokens in asker.tokens.values())
    thread.stop()


def test_nothing_comes_after_a_cancel_and_its_blocks_return(thread: EngineThread) -> None:
    asker = Asker(thread)
    asker.submit("a", tokens_of(5), ENDLESS)
    assert asker.heard.wait(PATIENCE_S)
    thread.cancel("a")
    until(lambda: thread.engine.counts().blocks_used == 0)
    assert not asker.over["a"].is_set() and len(asker.tokens["a"]) < 251
    thread.cancel("a")
    thread.cancel("unknown")
    asker.submit("a", tokens_of(5))
    asker.wait()
    assert not asker.errors


def test_a_new_request_hears_nothing_of_an_older_one_of_its_name(
    model: LanguageModel, expected: Any
) -> None:
    thread = EngineThread(make(model))
    asker, step = Asker(thread), thread.engine.step
    prompt, count = tokens_of(50, 50), 0

    def step_with_a_change_in_the_middle() -> bool:
        nonlocal count
        count += 1
        if count == 3:
            thread.cancel("a")
            asker.submit("a", prompt)
        return step()

    thread.engine.step = step_with_a_change_in_the_middle  # type: ignore[method-assign]
    asker.submit("a", tokens_of(5), ENDLESS)
    thread.start()
    until(lambda: count > 3)
    asker.wait()
    answer = expected(prompt)
    assert asker.tokens["a"][: answer.tie] == answer.tokens[: answer.tie]
    thread.stop()


def test_an_idle_engine_sleeps(thread: EngineThread) -> None:
    asker = Asker(thread)
    asker.submit("a", tokens_of(5))
    asker.wait()
    until(lambda: thread.counts.running == 0)
    schedules: list[float] = []
    step = thread.engine.step
    thread.engine.step = lambda: (schedules.append(0.0), step())[1]  # type: ignore[method-assign]
    ran = threading.Event()
    thread.call(ran.set)
    assert ran.wait(PATIENCE_S)
    time.sleep(0.2)
    assert len(schedules) <= 2


def test_what_cannot_be_served_is_an_error_to_its_owner(thread: EngineThread) -> None:
    asker = Asker(thread)
    asker.submit("long", tokens_of(CONTEXT))
    asker.submit("token", (97,))
    asker.submit("good", tokens_of(3))
    asker.wait()
    assert set(asker.errors) == {"long", "token"}
    assert "may have 256" in str(asker.errors["long"])
    asker.submit("twice", tokens_of(3), ENDLESS)
    with pytest.raises(ValueError, match="here already"):
        thread.submit(Request("twice", (1,)), lambda _: None, lambda _: None)


def test_stopping_lets_what_runs_finish(model: LanguageModel) -> None:
    thread = EngineThread(make(model))
    thread.start()
    asker = Asker(thread)
    for name in "abc":
        asker.submit(name, tokens_of(20, ord(name)))
    thread.stop(grace_s=PATIENCE_S)
    assert not thread.alive and not asker.errors
    assert all(len(tokens) == 24 for tokens in asker.tokens.values())
    with pytest.raises(StoppedError):
        asker.submit("late", (1,))
    thread.cancel("late")


def test_stopping_at_once_tells_everybody(model: LanguageModel) -> None:
    thread = EngineThread(make(model))
    asker = Asker(thread)
    asker.submit("running", tokens_of(20), ENDLESS)
    thread.start()
    assert asker.heard.wait(PATIENCE_S)
    # Blocks of a reservation that never come must not keep the thread.
    thread.call(lambda: thread.engine.reserve(Request("coming", tokens_of(9))))
    asker.submit("new", tokens_of(20))
    thread.stop()
    asker.wait()
    assert set(asker.errors) == {"running", "new"}
    assert all(isinstance(e, StoppedError) for e in asker.errors.values())


def test_an_engine_that_ends_by_itself_tells_everybody(
    model: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    thread = EngineThread(make(model))
    thread.start()
    asker = Asker(thread)
    asker.submit("a", tokens_of(5), ENDLESS)
    assert asker.heard.wait(PATIENCE_S)

    def broken() -> None:
        raise RuntimeError("a defect")

    thread.call(broken)
    asker.wait()
    assert "a defect" in str(asker.errors["a"])
    until(lambda: not thread.alive)
    with pytest.raises(StoppedError):
        asker.submit("b", (1,))
    assert "the engine ends" in caplog.text
    thread.stop()


def test_a_grammar_is_compiled_once_for_a_request_however_many_others_there_are(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llguidance")
    from llguidance import LLMatcher
    from test_grammar import END, byte_tokenizer

    from silva.serving.engine import grammar as module

    monkeypatch.setattr(module, "KEPT", 1)
    where: list[str] = []

    class Counted(module.Grammars):
        def _compile(self, grammar: str) -> LLMatcher:
            where.append(threading.current_thread().name.partition("_")[0])
            return super()._compile(grammar)

    grammars = Counted(byte_tokenizer(), model.config.vocab_size, [END])
    thread = EngineThread(make(model, grammars))
    asker = Asker(thread)
    names = [f"{n}" for n in range(5)]
    for name in names:
        grammar = LLMatcher.grammar_from_regex(f"[a-z]{{1{name}}}")
        asker.submit(name, tokens_of(4), SamplingParams(grammar=grammar, max_tokens=3))
    thread._compiler.submit(lambda: None).result(PATIENCE_S)  # all are compiled before one is added
    thread.start()
    for name in names:
        assert asker.over[name].wait(PATIENCE_S)
    thread.stop()
    assert not asker.errors
    assert where == ["grammar"] * len(names)


def test_grammars_are_compiled_beside_the_steps(model: LanguageModel) -> None:
    pytest.importorskip("llguidance")
    from llguidance import LLMatcher
    from test_grammar import SCHEMA

    grammar = LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA))
    go, compiling = threading.Event(), threading.Event()

    class Slow:
        """Compiles when told to; then says what is said of a broken grammar."""

        def matcher(self, grammar: str, given: Any = ()) -> Any:
            compiling.set()
            assert go.wait(PATIENCE_S)
            raise ServingError("no such grammar")

    thread = EngineThread(make(model, Slow()))
    thread.start()
    asker = Asker(thread)
    asker.submit("json", tokens_of(4), SamplingParams(grammar=grammar))
    asker.submit("gone", tokens_of(4), SamplingParams(grammar=grammar))
    assert compiling.wait(PATIENCE_S)
    asker.submit("plain", tokens_of(4))
    assert asker.over["plain"].wait(PATIENCE_S)
    assert not asker.over["json"].is_set()
    thread.cancel("gone")
    go.set()
    assert asker.over["json"].wait(PATIENCE_S)
    assert "no such grammar" in str(asker.errors["json"])
    thread.stop()
    assert not asker.over["gone"].is_set()
