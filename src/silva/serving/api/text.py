"""What the API needs of a model's text: a tokenizer, a detokenizer and a chat template."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")

INLINE_CHARACTERS = 2048
"""Shorter texts are encoded at once: a hop to another thread would take longer."""

_THREADS = 2


class Decoder(Protocol):
    """Turns one answer's tokens into text as they come."""

    def push(self, token: int) -> str:
        """The text that is certain now; empty while a character is incomplete."""
        ...

    def finish(self) -> str:
        """What is left: an incomplete character as U+FFFD."""
        ...


class TextModel(Protocol):
    """The text side of one model. All of it may be called from several threads."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids; all are below."""
        ...

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Tokens with which the model ends an answer."""
        ...

    @property
    def chat_template(self) -> str:
        """The template's source; empty where the model has none."""
        ...

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids; `add_special` puts the model's begin token and the like around them."""
        ...

    def decode(self, tokens: Sequence[int], *, skip_special: bool) -> str:
        """The text of whole sequences."""
        ...

    def decoder(self, *, skip_special: bool) -> Decoder:
        """A decoder for one answer."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """What the token stands for, which need not be whole characters."""
        ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """The chat as one text, special tokens included. May take seconds: templates are programs.

        Raises SilvaError where the model has no template or the template refuses the messages.
        """
        ...


class TextThreads:
    """Runs long work on texts beside the event loop, which would stand still meanwhile."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="silva-text")

    async def run(self, work: Callable[[], Result], characters: int) -> Result:
        """`work()`, at once if it is about few characters."""
        return work() if characters <= INLINE_CHARACTERS else await self.beside(work)

    async def beside(self, work: Callable[[], Result]) -> Result:
        """`work()`, which may take long whatever it is about. It logs under the request's id."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, work)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
