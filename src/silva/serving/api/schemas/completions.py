"""The body of `/v1/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from silva.serving.api.schemas.base import Asking, TokenId


def _kind(prompt: Any) -> str:
    """Which of the four forms a prompt has; a mistake is then told about that form only."""
    if not isinstance(prompt, list):
        return "text"
    first = prompt[0] if prompt else None
    if isinstance(first, list):
        return "token_lists"
    return "tokens" if isinstance(first, int) else "texts"


Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1), Tag("texts")]
    | Annotated[list[TokenId], Tag("tokens")]
    | Annotated[list[list[TokenId]], Tag("token_lists")],
    Discriminator(_kind),
]


class CompletionBody(Asking):
    """One prompt or several, as text or token ids."""

    prompt: Prompt
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=20)
    add_special_tokens: bool | None = None
    """Whether text prompts get the model's begin token; they do unless told otherwise."""

    # OpenAI's, where only the value without effect is served.
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """All prompts."""
        if isinstance(self.prompt, list) and self.prompt and not isinstance(self.prompt[0], int):
            return cast(list[str | list[int]], self.prompt)
        return [cast(str | list[int], self.prompt)]
