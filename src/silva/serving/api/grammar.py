"""JSON schemas as grammars that an answer must follow, checked before anything is computed."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from silva.serving.api.errors import ApiError, bad_request
from silva.serving.api.settings import ApiSettings
from silva.serving.api.text import TextThreads

ANY_OBJECT: dict[str, Any] = {"type": "object"}

# One way to write each value: with free white space a small model may write nothing else.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_PLACE = re.compile(r"^(at \d+\(\d+\): )?failed to compile JSON schema: ")
_SOURCE = re.compile(r"\n\s*\d+ \| |\n<state>")
_KEPT, _KEPT_CHARACTERS = 128, 1 << 24
_MAX_SYMBOLS, _MAX_STATES, _MAX_BYTES = 50_000, 25_000, 1 << 20
"""No more than engines allow, so that they need not refuse what was let in here."""
_SHOWN = 300


class _Bytes:
    """The least tokenizer: a token a byte. Whether a grammar is sound does not depend on it."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(256)), b"</s>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


class Grammars:
    """Compiles and checks grammars, and remembers the latest."""

    def __init__(self, settings: ApiSettings, threads: TextThreads) -> None:
        self._settings, self._threads = settings, threads
        self._known: OrderedDict[str, str] = OrderedDict()
        self._tokenizer: Any = None

    async def of_schema(self, schema: dict[str, Any], param: str) -> str:
        """The grammar of JSON that `schema` describes. Raises ApiError 400 that names `param`."""
        return await self.of_lark(f"start: {self.json_rule(schema, param)}", param)

    async def of_lark(self, lark: str, param: str) -> str:
        """The grammar of a text in llguidance's dialect of Lark. Raises ApiError 400."""
        if lark in self._known:
            self._known.move_to_end(lark)
            return self._known[lark]
        # A dense schema takes milliseconds a kilobyte, so that length says how long it will take.
        grammar = await self._threads.run(lambda: self._compiled(lark, param), len(lark) * 4)
        self._known[lark] = grammar
        while len(self._known) > _KEPT or self._characters() > _KEPT_CHARACTERS:
            self._known.popitem(last=False)
        return grammar

    def _characters(self) -> int:
        return sum(len(lark) + len(grammar) for lark, grammar in self._known.items())

    def json_rule(self, schema: dict[str, Any], param: str) -> str:
        """The body of a Lark rule for JSON of this schema. Raises ApiError 400 for its limits."""
        return f"%json {self._checked({**schema, 'x-guidance': _LAYOUT}, param)}"

    def _checked(self, schema: dict[str, Any], param: str) -> str:
        limits = self._settings
        if _deeper(schema, limits.max_schema_depth):
            raise _refused(f"the schema nests deeper than {limits.max_schema_depth}", param)
        try:
            text = json.dumps(schema, allow_nan=False)
        except ValueError as error:
            raise _refused(f"the schema is not JSON: {error}", param) from error
        if len(text) > limits.max_schema_bytes:
            raise _refused(f"the schema is longer than {limits.max_schema_bytes} bytes", param)
        return text

    def _compiled(self, lark: str, param: str) -> str:
        from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

        if self._tokenizer is None:
            self._tokenizer = LLTokenizer(TokenizerWrapper(_Bytes()))
        grammar: str = LLMatcher.grammar_from_lark(lark)
        if len(grammar.encode()) > _MAX_BYTES:
            raise _refused(f"all schemas together are longer than {_MAX_BYTES} bytes", param)
        limits = LLParserLimits(max_grammar_size=_MAX_SYMBOLS, max_lexer_states=_MAX_STATES)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # an endless recursion shows at the first step only
        if matcher.is_error():
            raise _refused(_reason(matcher.get_error()), param)
        return grammar


def _refused(what: str, param: str) -> ApiError:
    return bad_request(f"{param}: {what}", param=param, code="invalid_schema")


def _reason(error: str) -> str:
    """llguidance's reason on one line, without its position in a text that the client never saw."""
    if error.startswith("NoExtension"):
        return "nothing can follow this schema"
    line = " ".join(_PLACE.sub("", _SOURCE.split(error)[0]).split())
    return line[:_SHOWN] or "not a usable schema"


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects nest in more than so many levels; never recurses deeper itself."""
    inner: Sequence[Any]
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list):
        inner = value
    else:
        return False
    return levels == 0 or any(_deeper(each, levels - 1) for each in inner)
