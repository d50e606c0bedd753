"""What all bodies share: strict types, no unknown fields, and fields of both completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1024
MAX_BIASES = 1024
MAX_NAME_CHARACTERS = 256
MAX_TOKEN = (1 << 31) - 1
MAX_SEED = (1 << 63) - 1

TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]
Base64 = Annotated[str, Field(min_length=4)]
"""A file; it may be a data URL."""


class Body(BaseModel):
    """A typing mistake is an error that names the field, not a setting without effect."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(Body):
    """`stream_options`; obfuscation is accepted and not done."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(Body):
    """A schema with OpenAI's wrapping."""

    name: str = Field("answer", max_length=MAX_NAME_CHARACTERS)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """`response_format`: free text, any JSON object, or JSON that a schema describes."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Asking(Body):
    """What `/v1/completions` and `/v1/chat/completions` have in common. null means not given."""

    model: ModelName
    n: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, max_length=MAX_BIASES
    )
    response_format: ResponseFormat | None = None

    # Beyond OpenAI's, under the names that other servers use.
    top_k: int | None = Field(None, ge=-1, le=MAX_TOKEN)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    stop_token_ids: list[TokenId] | None = Field(None, max_length=64)
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    priority: int | None = Field(None, ge=0, le=1000)
    """A caller may step back behind others, never before them."""
    timings: bool | None = None

    # About the caller, or about OpenAI's own machines: accepted, without effect.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, however many were given."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def choices(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)
