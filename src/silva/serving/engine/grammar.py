"""Answers that follow a grammar: which tokens may come next, kept per request.

A grammar is text in llguidance's serialised form; who compiles schemas into it is above (serving.api).
Compiling it for the model's own tokens can take a good part of a second, so it happens outside
the step loop, once per grammar.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from silva.errors import MissingExtraError, ServingError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_GRAMMAR_BYTES = 1 << 20
MAX_GRAMMAR_SYMBOLS = 100_000
MAX_LEXER_STATES = 10_000
"""Of up to 2 kB each. Answers to schemas of hundreds of fields, patterns among them, made fewer than
2,000; patterns made to multiply them make any number.
"""
KEPT = 16
"""Compiled grammars that are remembered, with the states that their answers have made so far: at
most 320 MB together.
"""
SPENT = "too many states"
"""In llguidance's words when MAX_LEXER_STATES are made."""
SHOWN = 300
"""Characters of llguidance's own words in an error."""


class GrammarError(ServingError):
    """A grammar is wrong, too large, or contradicts the tokens already given (400)."""

    usual = "simplify the schema or pattern"


class Matcher:
    """The state of one answer. Not for several threads at a time.

    All answers to one compiled grammar share the states of its lexer, so that one may find them used
    up by the others. Then it starts once more, with states of its own.
    """

    def __init__(
        self, matcher: LLMatcher, vocab_size: int, renew: Callable[[], LLMatcher] | None = None
    ) -> None:
        """`renew` gives the grammar newly compiled, for this answer alone."""
        self._matcher, self._vocab_size, self._renew = matcher, vocab_size, renew
        self._taken: list[int] = []

    @property
    def ended(self) -> bool:
        """Whether the answer is complete and nothing can follow."""
        return self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, [vocab_size]. Raises GrammarError when none can be found."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            self._start_anew()
            mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            if self._matcher.is_error():
                raise GrammarError(_reason(self._matcher))
        bits = np.unpackbits(mask, count=self._vocab_size, bitorder="little")
        return bits.view(np.bool_)

    def take(self, tokens: Sequence[int]) -> None:
        """The answer goes on with these. Raises GrammarError when they do not follow the grammar."""
        if not self._matcher.consume_tokens(list(tokens)):
            self._start_anew()
            if not self._matcher.consume_tokens(list(tokens)):
                raise GrammarError(_reason(self._matcher))
        self._taken += tokens

    def _start_anew(self) -> None:
        """Raises GrammarError when the states are not to blame, or were its own."""
        if self._renew is None or SPENT not in self._matcher.get_error():
            raise GrammarError(_reason(self._matcher))
        self._matcher, self._renew = self._renew(), None
        if not self._matcher.consume_tokens(self._taken):
            raise GrammarError(_reason(self._matcher))


class Grammars:
    """Compiles grammars for the tokens of one model.

    The tokens are read when the first grammar comes: that takes most of a second of processor time,
    which a peer that starts would spend before it serves anybody.
    """

    def __init__(self, tokenizer: str, vocab_size: int, eos_ids: Sequence[int]) -> None:
        """`tokenizer`: the content of a tokenizer.json. `vocab_size`: of the model's logits."""
        self._source, self._vocab_size, self._eos_ids = tokenizer, vocab_size, list(eos_ids)
        self._tokenizer: LLTokenizer | None = None
        self._known: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock, self._reading = threading.Lock(), threading.Lock()

    def matcher(self, grammar: str, given: Sequence[int] = ()) -> Matcher:
        """A matcher at the start of an answer, or after the tokens `given` already.

        An end token among `given` ends it. May be called from any thread. Raises GrammarError, also
        for a tokenizer that llguidance cannot read, and MissingExtraError.
        """
        compiled = self._compiled(grammar)

        def renew() -> LLMatcher:
            with self._lock:
                if self._known.get(grammar) is compiled:
                    del self._known[grammar]
            return self._compile(grammar)

        fresh = Matcher(compiled.deep_copy(), self._vocab_size, renew)
        fresh.take(given)
        return fresh

    def _compiled(self, grammar: str) -> LLMatcher:
        with self._lock:
            if grammar in self._known:
                self._known.move_to_end(grammar)
                return self._known[grammar]
        matcher = self._compile(grammar)
        with self._lock:
            self._known[grammar] = matcher
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return matcher

    def _tokens(self) -> LLTokenizer:
        """The model's tokens, read once."""
        try:
            from llguidance import LLTokenizer
            from tokenizers import Tokenizer
        except ImportError as error:
            what = "grammars need the packages llguidance and tokenizers"
            raise MissingExtraError(what, remedy="pip install 'silva[serve]'") from error
        with self._reading:
            if self._tokenizer is None:
                try:
                    known: int = Tokenizer.from_str(self._source).get_vocab_size()
                    size = max(self._vocab_size, known)
                    self._tokenizer = LLTokenizer(self._source, size, self._eos_ids)
                except Exception as error:  # the Rust libraries raise nothing more special
                    what = f"the tokenizer cannot be used: {str(error)[:SHOWN]}"
                    raise GrammarError(what) from error
            return self._tokenizer

    def _compile(self, grammar: str) -> LLMatcher:
        tokens = self._tokens()
        from llguidance import LLMatcher, LLParserLimits

        if len(grammar.encode("utf-8", "replace")) > MAX_GRAMMAR_BYTES:
            raise GrammarError(f"the grammar is longer than {MAX_GRAMMAR_BYTES} bytes")
        limits = LLParserLimits(
            max_grammar_size=MAX_GRAMMAR_SYMBOLS,
            max_lexer_states=MAX_LEXER_STATES,
            verbose_errors=False,
        )
        matcher = LLMatcher(tokens, grammar, log_level=0, limits=limits)
        first = matcher.deep_copy()
        if not first.is_error():
            first.compute_bitmask()  # an endless recursion, or a limit, may show only now
        if first.is_error():
            raise GrammarError(_reason(first))
        return matcher


def _reason(matcher: LLMatcher) -> str:
    line = " ".join(matcher.get_error().split())
    return f"the grammar cannot be followed: {line[:SHOWN]}"
