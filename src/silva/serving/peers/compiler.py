"""Compiles the grammars of requests beside the peer's own thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from silva.control.request import Request
from silva.serving.engine.grammar import Grammars, Matcher


class Compiler:
    """One thread. What it has made belongs to the attempt: `grammars` may have forgotten it by then."""

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def compile(self, request: Request) -> Future[Matcher]:
        """The request's grammar, after what it emitted. GrammarError when that cannot be followed."""
        return self._thread.submit(
            self._grammars.matcher, request.sampling.grammar, request.emitted
        )

    def close(self) -> None:
        """Finish what is being compiled and no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
