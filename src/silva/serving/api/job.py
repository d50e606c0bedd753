"""All answers that one HTTP request asks for, from the backend's tokens to pieces of text."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from silva.control.request import Request, SamplingParams
from silva.serving.api.answer import Answer, Piece
from silva.serving.api.gate import Ticket
from silva.serving.api.ids import RequestId
from silva.serving.api.keys import ApiKey
from silva.serving.api.merge import merged
from silva.serving.api.sampling import seed_of
from silva.serving.api.schemas.base import Asking
from silva.serving.api.server import TextServer
from silva.serving.api.timings import TokenClock, timings
from silva.serving.backend import BusyError, ModelCard, UnavailableError


@dataclass(frozen=True)
class Caller:
    """Who asks, under which id, since when, and the place it holds in the gate."""

    key: ApiKey
    id: RequestId
    arrival_s: float
    ticket: Ticket
    wants_timings: bool


class Job:
    """`choices` answers to each prompt; answer i is choice i % choices of prompt i // choices."""

    def __init__(
        self,
        server: TextServer,
        caller: Caller,
        card: ModelCard,
        body: Asking,
        prompts: Sequence[tuple[tuple[int, ...], SamplingParams]],
    ) -> None:
        """Raises BusyError where the gate has no room for so many answers, ApiError 400 where it
        never has.
        """
        self.server, self.caller, self.card, self.body = server, caller, card, body
        self.created = int(time.time())
        self.prompts = [prompt for prompt, _ in prompts]
        self.choices = body.choices
        caller.ticket.widen(len(prompts) * self.choices)
        self.requests = [
            self._request(index, *prompts[index // self.choices])
            for index in range(len(prompts) * self.choices)
        ]
        self.answers = [self._answer(request) for request in self.requests]
        self._clocks = [TokenClock(caller.arrival_s) for _ in self.requests]

    def _request(self, index: int, prompt: tuple[int, ...], sampling: SamplingParams) -> Request:
        return Request(
            id=self.caller.id.of_answer(index),
            prompt=prompt,
            sampling=replace(sampling, seed=seed_of(sampling.seed, index % self.choices)),
            arrival_s=self.caller.arrival_s,
            priority=self.body.priority or 0,
            namespace=self.caller.key.namespace,
            path=self.card.path,
        )

    def _answer(self, request: Request) -> Answer:
        skip = self.body.skip_special_tokens
        return Answer(
            self.server.text.decoder(skip_special=True if skip is None else skip),
            self.body.stops,
            request.sampling.stop_token_ids,
            keeps_records=request.sampling.logprobs is not None or bool(self.body.return_token_ids),
        )

    def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """(number of the answer, what it got), as they come; ends when all answers are complete.

        Closing it cancels all requests. Raises what the backend raises.
        """
        return merged([self._of_one(index) for index in range(len(self.requests))])

    async def _of_one(self, index: int) -> AsyncGenerator[Piece, None]:
        request, answer = self.requests[index], self.answers[index]
        clock, end = self._clocks[index], "failed"
        last: Piece | None = None
        try:
            async with contextlib.aclosing(self.server.backend.generate(request)) as outputs:
                async for output in outputs:
                    if output.tokens:
                        if not clock.tokens_s:
                            self.caller.ticket.started()
                        clock.note(self.server.clock(), len(output.tokens))
                    piece = answer.push(output)
                    if answer.finish is None:
                        yield piece
                        continue
                    last = piece
                    if output.finish is None:  # a stop string, of which the backend knows nothing
                        self.server.backend.complete(request.id)
                        break
            if last is None or answer.finish is None:
                raise UnavailableError("the answer broke off")
            end = answer.finish
            yield last  # the backend has let go of the request before its owner hears of the end
        except (asyncio.CancelledError, GeneratorExit):
            end = answer.finish or "cancelled"
            raise
        except BusyError:
            end = "refused"
            raise
        finally:
            self.server.metrics.answer(end, len(request.prompt), answer, clock)

    def usage(self) -> dict[str, Any]:
        """Tokens so far, each prompt counted once, however many answers it gets."""
        prompt = sum(len(tokens) for tokens in self.prompts)
        answered = sum(answer.tokens for answer in self.answers)
        n = self.choices
        groups = [self.answers[start : start + n] for start in range(0, len(self.answers), n)]
        # Of several answers to one prompt, the one that found least in the cache computed it.
        cached = sum(min(answer.cached_tokens for answer in group) for group in groups)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answered,
            "total_tokens": prompt + answered,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def timings(self, index: int) -> dict[str, Any]:
        """Where the time of this answer went, or nothing if that was not asked for."""
        if not (self.caller.wants_timings or self.body.timings):
            return {}
        phases, clock = self.answers[index].phases, self._clocks[index]
        return {"timings": timings(phases, clock, self.server.clock())}
