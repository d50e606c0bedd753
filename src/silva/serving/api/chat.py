"""`/v1/chat/completions`: a conversation continued, with tool calls and reasoning told apart."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from silva.control.request import FinishReason
from silva.serving.api.answer import Piece, TokenRecord
from silva.serving.api.errors import bad_request
from silva.serving.api.job import Caller, Job
from silva.serving.api.logprobs import chat_logprobs
from silva.serving.api.prompts import chat_tokens
from silva.serving.api.reasoning import ReasoningParser, Split, reasoning_parsers
from silva.serving.api.sampling import sampling_params
from silva.serving.api.schemas.chat import ChatBody
from silva.serving.api.server import TextServer
from silva.serving.api.stream import DONE, event
from silva.serving.api.tool_plan import chat_grammar, tool_plan
from silva.serving.api.tools import AssembledCalls, Content, ToolEvent, ToolParser


async def chat(server: TextServer, caller: Caller, body: ChatBody) -> Chat:
    """Everything checked and tokenised. Raises ApiError and BusyError."""
    card = server.card(body.model, caller.key)
    if body.choices > server.settings.max_choices:
        message = f"n: {body.choices} is more than {server.settings.max_choices}"
        raise bad_request(message, param="n")
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_request("top_logprobs: needs logprobs to be true", param="top_logprobs")
    plan = tool_plan(server, body)
    grammar = await chat_grammar(server, body, plan)
    generation = True if body.add_generation_prompt is None else body.add_generation_prompt
    tokens = await chat_tokens(
        server,
        body.messages,
        plan.shown,
        body.chat_template_kwargs,
        add_generation_prompt=generation,
    )
    room = server.room(len(tokens), card, "messages")
    sampling = sampling_params(
        body,
        server.text,
        max_tokens=min(body.answer_tokens or room, room),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        grammar=grammar,
    )
    job = Job(server, caller, card, body, [(tokens, sampling)])
    thinking = reasoning_parsers(server, tokens, grammar, len(job.answers))
    return Chat(job, body, [Choice(plan.parser(), parser) for parser in thinking])


class Choice:
    """One answer as a message, and as the changes that a stream tells."""

    def __init__(self, parser: ToolParser | None, thinking: ReasoningParser | None) -> None:
        self._parser, self._thinking = parser, thinking
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls = AssembledCalls()
        self.records: list[TokenRecord] = []
        """All of the answer's, where it is answered whole."""
        self.begun = False

    def add(self, piece: Piece) -> list[dict[str, Any]]:
        """The deltas that this piece makes; none while everything is held back."""
        thought, text = self._split(piece)
        deltas: list[dict[str, Any]] = []
        if thought:
            self._thoughts.append(thought)
            deltas.append({"reasoning_content": thought})
        return deltas + [self._delta(found) for found in self._events(text, piece.finish)]

    def _split(self, piece: Piece) -> tuple[str, str]:
        """Reasoning, and the rest."""
        if self._thinking is None:
            return "", piece.text
        found = self._thinking.push(piece.text)
        last = self._thinking.finish() if piece.finish else Split("", "")
        return found.reasoning + last.reasoning, found.text + last.text

    def _events(self, text: str, finish: FinishReason | None) -> list[ToolEvent]:
        if self._parser is None:
            return [Content(text)] if text else []
        events = self._parser.push(text)
        return [*events, *self._parser.finish()] if finish else events

    def _delta(self, found: ToolEvent) -> dict[str, Any]:
        if isinstance(found, Content):
            self._texts.append(found.text)
            return {"content": found.text}
        return {"tool_calls": [self._calls.add(found)]}

    def finish_reason(self, finish: FinishReason | None) -> str | None:
        """A complete answer with calls ended in order to have them made."""
        return "tool_calls" if finish == "stop" and self._calls.calls else finish

    def message(self) -> dict[str, Any]:
        """The whole message."""
        text, calls = "".join(self._texts), self._calls.calls
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not calls else None,
            "refusal": None,
        }
        if self._thoughts:
            message["reasoning_content"] = "".join(self._thoughts)
        return {**message, "tool_calls": calls} if calls else message


class Chat:
    """The answers in the shape of this endpoint."""

    def __init__(self, job: Job, body: ChatBody, choices: list[Choice]) -> None:
        self.job, self._body, self._choices = job, body, choices
        self._identity = {
            "id": f"chatcmpl-{job.caller.id.unique}",
            "created": job.created,
            "model": job.card.id,
        }

    async def whole(self) -> dict[str, Any]:
        """One object, once all answers are complete."""
        async with contextlib.aclosing(self.job.pieces()) as pieces:
            async for index, piece in pieces:
                self._choices[index].add(piece)
                self._choices[index].records.extend(piece.records)
        choices = []
        for index, (choice, answer) in enumerate(zip(self._choices, self.job.answers, strict=True)):
            choices.append(
                {
                    "index": index,
                    "message": choice.message(),
                    "finish_reason": choice.finish_reason(answer.finish),
                    **self._details(choice.records),
                    **self.job.timings(index),
                }
            )
        found = {**self._identity, "object": "chat.completion", "choices": choices}
        return {**found, **self._prompt_ids(), "usage": self.job.usage()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events, as the text comes."""
        base = {**self._identity, "object": "chat.completion.chunk"}
        usage = {"usage": None} if self._body.wants_usage else {}
        async with contextlib.aclosing(self.job.pieces()) as pieces:
            async for index, piece in pieces:
                for choice in self._chunks(index, piece):
                    extra = self._prompt_ids() if "role" in choice["delta"] else {}
                    yield event({**base, **extra, **usage, "choices": [choice]})
        if self._body.wants_usage:
            yield event({**base, "choices": [], "usage": self.job.usage()})
        yield DONE

    def _chunks(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """What one piece becomes: its role first, its changes, and how it ended."""
        choice = self._choices[index]
        deltas = choice.add(piece)
        if not deltas and piece.records:
            deltas = [{"content": ""}]
        chunks = [self._chunk(index, delta) for delta in deltas]
        if chunks:
            chunks[0].update(self._details(piece.records))
        if not choice.begun:
            choice.begun = True
            chunks.insert(0, self._chunk(index, {"role": "assistant", "content": ""}))
        if piece.finish:
            end = self._chunk(index, {}, choice.finish_reason(piece.finish))
            chunks.append({**end, **self.job.timings(index)})
        return chunks

    @staticmethod
    def _chunk(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _details(self, records: list[TokenRecord] | tuple[TokenRecord, ...]) -> dict[str, Any]:
        """Log-probabilities and token ids, where they were asked for."""
        found: dict[str, Any] = {"logprobs": None}
        if self._body.logprobs:
            found["logprobs"] = chat_logprobs(records, self.job.server.text)
        if self._body.return_token_ids:
            found["token_ids"] = [record.token for record in records]
        return found

    def _prompt_ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": self.job.prompts[0]} if self._body.return_token_ids else {}
