"""What all endpoints of one front share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from silva.serving.api.errors import ApiError, bad_request, unknown_model
from silva.serving.api.gate import Gate
from silva.serving.api.grammar import Grammars
from silva.serving.api.keys import ApiKey, KeyRing
from silva.serving.api.metrics import Metrics
from silva.serving.api.settings import ApiSettings
from silva.serving.api.text import TextModel, TextThreads
from silva.serving.backend import Backend, ModelCard, Serving

if TYPE_CHECKING:
    from silva.serving.live_forest import LiveForest
    from silva.serving.newcomers import Newcomers


@dataclass(frozen=True)
class Server:
    """The parts of one front, whatever its models answer; made once."""

    backend: Serving
    settings: ApiSettings
    keys: KeyRing
    admin_keys: KeyRing
    gate: Gate
    metrics: Metrics
    forest: LiveForest | None
    """Whose clients are models too."""
    newcomers: Newcomers[Any] | None
    """Clients who join by their examples, where they can."""
    clock: Callable[[], float]
    """Seconds, monotonic: the clock of `Request.arrival_s` and of the backend's phases."""

    def card(self, name: str, key: ApiKey) -> ModelCard:
        """The model of this name, if the key opens it. Raises ApiError 404."""
        card = self.backend.model(name) if not key.model or key.model == name else None
        if card is None:
            raise unknown_model(name)
        return card


@dataclass(frozen=True)
class TextServer(Server):
    """A front whose models continue texts; made by `create_app`."""

    backend: Backend
    text: TextModel
    grammars: Grammars
    threads: TextThreads

    async def encode(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        """Token ids of a text, long ones beside the event loop."""
        tokens = await self.threads.run(
            lambda: self.text.encode(text, add_special=add_special), len(text)
        )
        return tuple(tokens)

    def check_tokens(self, tokens: Sequence[int], param: str) -> None:
        """Raises ApiError 400 for ids that the vocabulary does not have."""
        most = max(tokens, default=0)
        if most >= self.text.vocabulary:
            message = f"{param}: token {most} is not below {self.text.vocabulary}"
            raise bad_request(message, param=param)

    def room(self, prompt: int, card: ModelCard, param: str) -> int:
        """Tokens that are left for an answer. Raises ApiError 400 with both numbers for none."""
        limit = card.context_tokens
        if prompt == 0:
            raise bad_request(f"{param}: is empty", param=param)
        most = self.settings.max_prompt_tokens
        if most and prompt > most:
            raise _too_long(f"this server takes prompts of up to {most} tokens", prompt, param)
        if prompt >= limit:
            raise _too_long(f"this model's context is {limit} tokens", prompt, param)
        return limit - prompt


def _too_long(limit: str, prompt: int, param: str) -> ApiError:
    message = f"{limit}, but the prompt has {prompt}"
    return bad_request(message, param=param, code="context_length_exceeded")
