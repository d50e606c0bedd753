"""Compiles the grammars of requests beside the peer's own thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from silva.control.request import Request
from silva.serving.engine.grammar import Grammars


class Compiler:
    """One thread; what it has compiled the engine finds in the `grammars` that they share."""

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def compile(self, request: Request) -> Future[None]:
        """Have the request's grammar ready. GrammarError when it has none that can be followed."""
        return self._thread.submit(self._compile, request.sampling.grammar)

    def _compile(self, grammar: str) -> None:
        self._grammars.matcher(grammar)

    def close(self) -> None:
        """Finish what is being compiled and no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
