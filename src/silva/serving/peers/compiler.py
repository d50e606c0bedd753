"""Compiles the grammars of requests beside the peer's own thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from silva.control.request import Request
from silva.models.language import LanguageConfig
from silva.models.tokenizer import TOKENIZER
from silva.serving.engine.grammar import Grammars, Matcher


class Compiler:
    """One thread, which reads the tokenizer when the first grammar comes."""

    def __init__(self, model: Path, config: LanguageConfig) -> None:
        self._model, self._config = model, config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    @cached_property
    def _grammars(self) -> Grammars:
        tokenizer = (self._model / TOKENIZER).read_text("utf-8")
        return Grammars(tokenizer, self._config.vocab_size, self._config.eos_ids)

    def matcher(self, request: Request) -> Future[Matcher]:
        """Where the request's answer stands in its grammar. GrammarError when it has none."""
        return self._thread.submit(self._matcher, request)

    def _matcher(self, request: Request) -> Matcher:
        return self._grammars.matcher(request.sampling.grammar, request.emitted)

    def close(self) -> None:
        """Finish what is being compiled and no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
