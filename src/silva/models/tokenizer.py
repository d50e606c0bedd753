"""Text to tokens and back: `tokenizer.json`, read by the library `tokenizers`.

Encoding is the library's. Decoding is done here, from the bytes that each token stands for: then an
answer can be given out token by token, never half a character, and is the same as decoded in one go.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from silva.errors import ModelError, PromptError
from silva.models.fields import first_line, read_json, refused, short

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
LARGEST_TOKENIZER_BYTES = 64 << 20
LARGEST_TEXT = 8 << 20
"""Characters of one text; contexts of a million tokens fit twice."""
LARGEST_PATTERN = 4096
LARGEST_GROWTH = 256
"""How much longer a tokenizer's replacements may make a text, at most, before it is cut."""

SPECIAL_NAMES = tuple(f"{n}_token" for n in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Special tokens that have a name; chat templates use them by it."""

Result = TypeVar("Result")


def byte_alphabet() -> dict[int, str]:
    """Byte -> the printable character that byte-level vocabularies write it as (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [n for n in range(256) if n not in printable]
    return {n: chr(n) for n in printable} | {n: chr(256 + k) for k, n in enumerate(rest)}


_BYTE_OF = {character: byte for byte, character in byte_alphabet().items()}
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """One vocabulary. May be used by several threads at once."""

    def __init__(self, content: bytes, where: object = TOKENIZER) -> None:
        """`content` of a `tokenizer.json`. Raises ModelError for what silva cannot read."""
        import tokenizers

        try:
            raw = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"cannot be read as JSON ({first_line(error)})", where=where) from None
        spelling = _check(raw, where)
        # what length a text may have is not the vocabulary's affair
        raw.update(truncation=None, padding=None)
        self._library = _guarded(
            lambda: tokenizers.Tokenizer.from_str(json.dumps(raw)),
            lambda why: ModelError(f"is no tokenizer ({why})", where=where),
        )
        self._ids: dict[str, int] = self._library.get_vocab(with_added_tokens=True)
        self.vocabulary = max(self._ids.values(), default=-1) + 1
        """All ids are below."""
        added = self._library.get_added_tokens_decoder()
        self._special = {n for n, token in added.items() if token.special}
        self._strip, self._drop_first = spelling.strip, spelling.drop_first
        self._bytes: dict[int, bytes] = {n: spelling.bytes_of(t) for t, n in self._ids.items()}

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids; `add_special` puts the vocabulary's begin token and the like around them.

        Special tokens that are written out in `text` become these tokens. Raises PromptError for a
        text that is too long or no Unicode.
        """
        if len(text) > LARGEST_TEXT:
            raise PromptError(f"{len(text)} characters, more than {LARGEST_TEXT}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PromptError("the text holds half a character (a lone surrogate)") from None
        encoding = _guarded(
            lambda: self._library.encode(text, add_special_tokens=add_special),
            lambda why: PromptError(f"the text cannot be cut into tokens ({why})"),
        )
        return list(encoding.ids)

    def decode(self, tokens: Sequence[int], *, skip_special: bool) -> str:
        """The text of a whole sequence; ids that no token has stand for nothing.

        Bytes that are no UTF-8 become U+FFFD, as many as Python's `errors="replace"` gives.
        """
        decoder = self.decoder(skip_special=skip_special, continuing=False)
        return "".join(map(decoder.push, tokens)) + decoder.finish()

    def decoder(self, *, skip_special: bool, continuing: bool = True) -> Decoder:
        """A decoder for one answer.

        `continuing`: the text follows another one, so that the space before its first word stays.
        """
        return Decoder(self, skip_special=skip_special, continuing=continuing)

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for, which need not be whole characters; empty for no token's id."""
        return self._bytes.get(token, b"")

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it."""
        return self._ids.get(token)

    def is_special(self, token: int) -> bool:
        """Whether the token steers the model, and is no part of a text."""
        return token in self._special


class Decoder:
    """Turns the tokens of one text into characters as they come."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool, continuing: bool) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip = 0 if continuing else tokenizer._strip
        self._first = not continuing and tokenizer._drop_first

    def push(self, token: int) -> str:
        """The text that is certain now; empty while a character is incomplete."""
        if self._skip and self._tokenizer.is_special(token):
            return ""
        content = self._tokenizer.token_bytes(token)
        if self._first and content:
            content, self._first = content.lstrip(b" "), False
        return self._stripped(self._utf8.decode(content))

    def finish(self) -> str:
        """What is left: an incomplete character as U+FFFD."""
        return self._stripped(self._utf8.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        while self._strip and text:
            if text[0] != " ":
                self._strip = 0
                break
            text, self._strip = text[1:], self._strip - 1
        return text


class Spelling:
    """How the tokens of a vocabulary are written: the decoder of its `tokenizer.json`."""

    def __init__(self, raw: Any, where: object) -> None:
        """Raises ModelError for a decoder other than those of byte-level and SentencePiece BPE."""
        steps = raw.get("decoders") if _type(raw) == "Sequence" else [raw]
        steps = steps if isinstance(steps, list) else []
        self.strip, self.drop_first = 0, False
        self._byte_level = self._fallback = False
        self._replace: list[tuple[str, str]] = []
        kinds = " ".join(str(_type(step)) for step in steps)
        if not re.fullmatch(r"ByteLevel|Metaspace|(Replace )*(ByteFallback )?Fuse( Strip)?", kinds):
            raise refused("decoder", f"{kinds[:60] or short(raw)} is not one silva knows", where)
        for step in steps:
            self._take(step, where)

    def _take(self, step: dict[str, Any], where: object) -> None:
        kind = step["type"]
        if kind == "ByteLevel":
            self._byte_level = True
        elif kind == "ByteFallback":
            self._fallback = True
        elif kind == "Metaspace":
            self._replace.append((_text(step, "replacement", where), " "))
            self.drop_first = step.get("prepend_scheme") != "never"
        elif kind == "Replace":
            pattern = step.get("pattern")
            old = pattern if isinstance(pattern, dict) else {}
            self._replace.append((_text(old, "String", where), _text(step, "content", where)))
        elif kind == "Strip":
            start = step.get("start")
            if step.get("content") != " " or step.get("stop") or type(start) is not int:
                raise refused("decoder", f"{short(step)} strips other than leading spaces", where)
            self.strip = min(max(start, 0), LARGEST_TEXT)

    def bytes_of(self, token: str) -> bytes:
        """What a token stands for."""
        if self._byte_level:
            known = [_BYTE_OF.get(character, -1) for character in token]
            return token.encode() if -1 in known else bytes(known)
        for old, new in self._replace:
            token = token.replace(old, new)
        match = _FALLBACK.fullmatch(token) if self._fallback else None
        return bytes([int(match[1], 16)]) if match else token.encode()


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face directory. Raises ModelError."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise ModelError(
            f"no {TOKENIZER} here",
            where=folder,
            remedy="fetch the model directory again; older ones are converted by opening the "
            "tokenizer with transformers and calling save_pretrained",
        )
    with path.open("rb") as file:
        content = file.read(LARGEST_TOKENIZER_BYTES + 1)
    if len(content) > LARGEST_TOKENIZER_BYTES:
        raise ModelError(f"more than {LARGEST_TOKENIZER_BYTES >> 20} MiB", where=path)
    return Tokenizer(content, path)


def special_names(folder: Path) -> dict[str, str]:
    """Named special tokens of a directory, such as bos_token -> "<s>". Raises ModelError."""
    found = {}
    for file in (SPECIAL_TOKENS, TOKENIZER_CONFIG):
        raw = read_json(folder / file) if (folder / file).is_file() else {}
        for name in SPECIAL_NAMES:
            token = raw.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str) and len(text) <= 1000:
                found[name] = text
    return found


def _check(raw: Any, where: object) -> Spelling:
    """Refuse what could make texts explode, or one text have several encodings."""
    model = raw.get("model") if isinstance(raw, dict) else None
    if not isinstance(model, dict) or _type(model) != "BPE":
        raise refused("model", f"type {short(_type(model))} is not BPE", where)
    if model.get("dropout"):
        raise refused("dropout", "the tokens of a text would be drawn by lot", where)
    growth = 1
    for part in _parts([raw.get("normalizer"), raw.get("pre_tokenizer")]):
        if _type(part) in ("Replace", "Prepend"):
            content = part.get("content", part.get("prepend"))
            growth *= max(len(content) if isinstance(content, str) else 1, 1)
        pattern = part.get("pattern")
        if len(json.dumps(pattern)) > LARGEST_PATTERN:
            raise refused("pattern", f"longer than {LARGEST_PATTERN} characters", where)
    if growth > LARGEST_GROWTH:
        raise refused("normalizer", f"texts would grow {growth} times", where)
    return Spelling(raw.get("decoder"), where)


def _parts(values: list[Any]) -> list[dict[str, Any]]:
    """All tables in nested sequences of steps."""
    found, open_ones = [], list(values)
    while open_ones:
        value = open_ones.pop()
        if isinstance(value, list):
            open_ones += value
        elif isinstance(value, dict):
            found.append(value)
            open_ones += [v for v in value.values() if isinstance(v, list | dict)]
    return found


def _type(raw: Any) -> Any:
    return raw.get("type") if isinstance(raw, dict) else None


def _text(raw: dict[str, Any], name: str, where: object) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not len(value) <= 16 or (name != "content" and not value):
        raise refused("decoder", f"{name} {short(value)} is not a short text", where)
    return value


def _guarded(call: Callable[[], Result], fail: Callable[[str], Exception]) -> Result:
    """`call()`, also where the library panics, which is no Exception in Python."""
    try:
        return call()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise fail(first_line(error)) from None
