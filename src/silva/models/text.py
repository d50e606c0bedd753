"""The text side of one language model: its tokenizer, its chat template and its end tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from silva.errors import PromptError
from silva.models.chat import TEMPLATE, ChatTemplate, load_chat_template
from silva.models.language_config import read_language_config
from silva.models.tokenizer import (
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Decoder,
    Tokenizer,
    load_tokenizer,
)

TEXT_FILES = (TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, TEMPLATE)
"""What `load_text` reads of a directory, beside its configuration."""


class LanguageText:
    """What turns texts and chats into tokens of the model, and tokens into texts.

    May be used by several threads at once.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        vocabulary: int,
        end_tokens: tuple[int, ...],
    ) -> None:
        """`vocabulary`: rows of the model's head, which may be more or fewer than the tokenizer's
        tokens; `end_tokens`: those with which the model ends an answer.
        """
        self.tokenizer, self._template = tokenizer, template
        self.vocabulary, self.end_tokens = vocabulary, end_tokens

    @property
    def chat_template(self) -> str:
        """The template's source; empty where the model has none."""
        return "" if self._template is None else self._template.source

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """See `Tokenizer.encode`; also raises PromptError for a token the model has no row for."""
        tokens = self.tokenizer.encode(text, add_special=add_special)
        beyond = [n for n in tokens if n >= self.vocabulary]
        if beyond:
            what = self.tokenizer.token_bytes(beyond[0]).decode(errors="replace")
            raise PromptError(f"the model does not know the token {what!r}")
        return tokens

    def decode(self, tokens: Sequence[int], *, skip_special: bool) -> str:
        """The text of a whole sequence."""
        return self.tokenizer.decode(tokens, skip_special=skip_special)

    def decoder(self, *, skip_special: bool) -> Decoder:
        """A decoder for one answer; the space before its first word stays, as it follows a prompt."""
        return self.tokenizer.decoder(skip_special=skip_special)

    def token_bytes(self, token: int) -> bytes:
        """What the token stands for, which need not be whole characters."""
        return self.tokenizer.token_bytes(token)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """See `ChatTemplate.render`; also raises PromptError where the model has no template."""
        if self._template is None:
            raise PromptError(
                "the model has no chat template", remedy="send a prompt to /v1/completions"
            )
        return self._template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )

    def close(self) -> None:
        """End the chat template's process."""
        if self._template is not None:
            self._template.close()


def load_text(folder: Path) -> LanguageText:
    """The text side of a Hugging Face directory; imports no torch. Raises ModelError."""
    config = read_language_config(folder)
    return LanguageText(
        load_tokenizer(folder),
        load_chat_template(folder),
        vocabulary=config.vocab_size,
        end_tokens=config.eos_ids,
    )
