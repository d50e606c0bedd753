"""A body's sampling fields as SamplingParams."""

from __future__ import annotations

import secrets

from silva.control.request import SamplingParams
from silva.serving.api.errors import bad_request
from silva.serving.api.schemas.base import MAX_SEED, Asking
from silva.serving.api.text import TextModel


def sampling_params(
    body: Asking,
    text: TextModel,
    *,
    max_tokens: int,
    logprobs: int | None = None,
    grammar: str = "",
) -> SamplingParams:
    """For the first answer; the others' seeds come from `seed_of`. Raises ApiError 400."""
    defaults = SamplingParams()
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=_given(body.temperature, defaults.temperature),
        top_p=_given(body.top_p, defaults.top_p),
        top_k=max(0, body.top_k or 0),  # other servers say -1 for all tokens
        min_p=_given(body.min_p, defaults.min_p),
        presence_penalty=_given(body.presence_penalty, defaults.presence_penalty),
        frequency_penalty=_given(body.frequency_penalty, defaults.frequency_penalty),
        repetition_penalty=_given(body.repetition_penalty, defaults.repetition_penalty),
        seed=secrets.randbits(63) if body.seed is None else body.seed & MAX_SEED,
        stop_token_ids=_end_tokens(body, text),
        logprobs=logprobs,
        logit_bias=_biases(body, text),
        grammar=grammar,
    )


def seed_of(first: int, choice: int) -> int:
    """The seed of one of several answers to the same prompt."""
    return (first + choice) & MAX_SEED


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _end_tokens(body: Asking, text: TextModel) -> tuple[int, ...]:
    asked = tuple(body.stop_token_ids or ())
    own = () if body.ignore_eos else text.end_tokens
    return tuple(dict.fromkeys((*own, *asked)))


def _biases(body: Asking, text: TextModel) -> tuple[tuple[int, float], ...]:
    biases = []
    for name, bias in (body.logit_bias or {}).items():
        if not (name.isascii() and name.isdecimal() and len(name) < 10):
            raise bad_request(f"logit_bias: {name[:40]!r} is not a token id", param="logit_bias")
        if int(name) >= text.vocabulary:
            message = f"logit_bias: token {name} is not below {text.vocabulary}"
            raise bad_request(message, param="logit_bias")
        biases.append((int(name), bias))
    return tuple(biases)
