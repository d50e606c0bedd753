"""Log-probabilities in the shapes of both endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from silva.serving.api.answer import TokenRecord
from silva.serving.api.text import TextModel

LEAST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


def token_name(content: bytes) -> str:
    """A token as text; one that is not whole characters as OpenAI writes it: `bytes:\\xf0\\x9f`."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def chat_logprobs(records: Sequence[TokenRecord], text: TextModel) -> dict[str, Any]:
    """`choices[].logprobs` of a chat; the end token has no entry."""
    return {
        "content": [
            {
                **_entry(record.token, record.logprob.logprob, text),
                "top_logprobs": [_entry(t, value, text) for t, value in record.logprob.top],
            }
            for record in records
            if record.logprob is not None and not record.ends
        ],
        "refusal": None,
    }


def completion_logprobs(records: Sequence[TokenRecord], text: TextModel) -> dict[str, Any]:
    """`choices[].logprobs` of a completion: four lists, an entry a token."""
    shown = [(r, r.logprob) for r in records if r.logprob is not None and not r.ends]
    names = [token_name(text.token_bytes(record.token)) for record, _ in shown]
    return {
        "tokens": names,
        "token_logprobs": [_finite(logprob.logprob) for _, logprob in shown],
        "top_logprobs": [
            {
                **{token_name(text.token_bytes(t)): _finite(value) for t, value in logprob.top},
                name: _finite(logprob.logprob),
            }
            for name, (_, logprob) in zip(names, shown, strict=True)
        ],
        "text_offset": [record.offset for record, _ in shown],
    }


def _entry(token: int, logprob: float, text: TextModel) -> dict[str, Any]:
    content = text.token_bytes(token)
    return {"token": token_name(content), "logprob": _finite(logprob), "bytes": list(content)}


def _finite(logprob: float) -> float:
    return logprob if logprob > LEAST else LEAST  # also of not-a-number, which compares false
