"""Compiles the grammars of requests beside the peer's own thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from silva.control.request import Request
from silva.models.language import LanguageConfig
from silva.models.tokenizer import TOKENIZER
from silva.serving.engine.grammar import Grammars


class Compiler:
    """One thread; what it has compiled the engine finds in `grammars`."""

    def __init__(self, model: Path, config: LanguageConfig) -> None:
        tokenizer = (model / TOKENIZER).read_text("utf-8")
        self.grammars = Grammars(tokenizer, config.vocab_size, config.eos_ids)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def compile(self, request: Request) -> Future[None]:
        """Have the request's grammar ready. GrammarError when it has none that can be followed."""
        return self._thread.submit(self._compile, request.sampling.grammar)

    def _compile(self, grammar: str) -> None:
        self.grammars.matcher(grammar)

    def close(self) -> None:
        """Finish what is being compiled and no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
