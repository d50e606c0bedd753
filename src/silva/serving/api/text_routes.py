"""`/tokenize` and `/detokenize`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from silva.serving.api.auth import caller
from silva.serving.api.body import read_body
from silva.serving.api.errors import bad_request
from silva.serving.api.keys import ApiKey
from silva.serving.api.logprobs import token_name
from silva.serving.api.openapi import takes
from silva.serving.api.prompts import chat_tokens
from silva.serving.api.schemas.text import DetokenizeBody, TokenizeBody
from silva.serving.api.server import TextServer
from silva.serving.api.stream import json_response
from silva.serving.backend import ModelCard


def texts(server: TextServer) -> APIRouter:
    """Texts as token ids and back, as the models see them."""
    router = APIRouter(tags=["texts"])

    @router.post("/tokenize", **takes(TokenizeBody))
    async def tokenize(request: Request) -> Response:
        """Token ids of a text or a chat."""
        key = caller(request, server.keys)
        with server.gate.enter(key.name) as ticket:
            body = await read_body(request, TokenizeBody, server.settings, ticket)
            card = _card(server, key, body.model)
            tokens = await _tokens(server, body)
        found: dict[str, Any] = {
            "count": len(tokens),
            "max_model_len": card.context_tokens,
            "tokens": tokens,
        }
        if body.return_token_strs:
            found["token_strs"] = [token_name(server.text.token_bytes(token)) for token in tokens]
        return json_response(found)

    @router.post("/detokenize", **takes(DetokenizeBody))
    async def detokenize(request: Request) -> Response:
        """The text of token ids."""
        key = caller(request, server.keys)
        with server.gate.enter(key.name) as ticket:
            body = await read_body(request, DetokenizeBody, server.settings, ticket)
            _card(server, key, body.model)
            server.check_tokens(body.tokens, "tokens")
            skip = bool(body.skip_special_tokens)
            text = await server.threads.run(
                lambda: server.text.decode(body.tokens, skip_special=skip), len(body.tokens)
            )
        return json_response({"prompt": text})

    return router


def _card(server: TextServer, key: ApiKey, name: str | None) -> ModelCard:
    """The model that is named, else the one that the key opens, else the base."""
    if name is None and not key.model:
        return server.backend.models()[0]
    return server.card(name or key.model, key)


async def _tokens(server: TextServer, body: TokenizeBody) -> tuple[int, ...]:
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give either prompt or messages", param="prompt")
    if body.messages is not None:
        generation = True if body.add_generation_prompt is None else body.add_generation_prompt
        return await chat_tokens(
            server,
            body.messages,
            body.tools,
            body.chat_template_kwargs,
            add_generation_prompt=generation,
        )
    special = True if body.add_special_tokens is None else body.add_special_tokens
    return await server.encode(body.prompt or "", add_special=special)
