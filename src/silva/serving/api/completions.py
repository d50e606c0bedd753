"""`/v1/completions`: a text, or token ids, continued."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from silva.serving.api.answer import Piece, TokenRecord
from silva.serving.api.errors import bad_request
from silva.serving.api.job import Caller, Job
from silva.serving.api.logprobs import completion_logprobs
from silva.serving.api.response_format import format_grammar
from silva.serving.api.sampling import sampling_params
from silva.serving.api.schemas.completions import CompletionBody
from silva.serving.api.server import TextServer
from silva.serving.api.stream import DONE, event

DEFAULT_TOKENS = 16
"""OpenAI's."""


async def completion(server: TextServer, caller: Caller, body: CompletionBody) -> Completion:
    """Everything checked and tokenised. Raises ApiError and BusyError."""
    card = server.card(body.model, caller.key)
    limits = server.settings
    if body.choices > limits.max_choices:
        raise bad_request(f"n: {body.choices} is more than {limits.max_choices}", param="n")
    if len(body.prompts) > limits.max_prompts:
        message = f"prompt: {len(body.prompts)} prompts, this server takes {limits.max_prompts}"
        raise bad_request(message, param="prompt")
    grammar = await format_grammar(server.grammars, body.response_format)
    special = True if body.add_special_tokens is None else body.add_special_tokens
    prompts = []
    for prompt in body.prompts:
        tokens = await _tokens(server, prompt, add_special=special)
        room = server.room(len(tokens), card, "prompt")
        sampling = sampling_params(
            body,
            server.text,
            max_tokens=min(body.max_tokens or DEFAULT_TOKENS, room),
            logprobs=body.logprobs,
            grammar=grammar,
        )
        prompts.append((tokens, sampling))
    return Completion(Job(server, caller, card, body, prompts), body)


async def _tokens(
    server: TextServer, prompt: str | list[int], *, add_special: bool
) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return await server.encode(prompt, add_special=add_special)
    server.check_tokens(prompt, "prompt")
    return tuple(prompt)


class Completion:
    """The answers in the shape of this endpoint."""

    def __init__(self, job: Job, body: CompletionBody) -> None:
        self.job, self._body = job, body
        self._base = {
            "id": f"cmpl-{job.caller.id.unique}",
            "object": "text_completion",
            "created": job.created,
            "model": job.card.id,
        }

    async def whole(self) -> dict[str, Any]:
        """One object, once all answers are complete."""
        texts: list[list[str]] = [[] for _ in self.job.answers]
        records: list[list[TokenRecord]] = [[] for _ in self.job.answers]
        async with contextlib.aclosing(self.job.pieces()) as pieces:
            async for index, piece in pieces:
                texts[index].append(piece.text)
                records[index].extend(piece.records)
        choices = [
            self._choice(
                index,
                Piece("".join(texts[index]), tuple(records[index]), answer.finish),
                begins=True,
            )
            for index, answer in enumerate(self.job.answers)
        ]
        return {**self._base, "choices": choices, "usage": self.job.usage()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events, as the text comes."""
        base = {**self._base, "usage": None} if self._body.wants_usage else self._base
        begun: set[int] = set()
        async with contextlib.aclosing(self.job.pieces()) as pieces:
            async for index, piece in pieces:
                if piece.text or piece.records or piece.finish:
                    choice = self._choice(index, piece, begins=index not in begun)
                    begun.add(index)
                    yield event({**base, "choices": [choice]})
        if self._body.wants_usage:
            yield event({**self._base, "choices": [], "usage": self.job.usage()})
        yield DONE

    def _choice(self, index: int, piece: Piece, *, begins: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": index,
            "text": piece.text,
            "logprobs": None,
            "finish_reason": piece.finish,
        }
        if self._body.logprobs is not None:
            choice["logprobs"] = completion_logprobs(piece.records, self.job.server.text)
        if self._body.return_token_ids:
            choice["token_ids"] = [record.token for record in piece.records]
            if begins:
                choice["prompt_token_ids"] = self.job.requests[index].prompt
        if piece.finish:
            choice.update(self.job.timings(index))
        return choice
