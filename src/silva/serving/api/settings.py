"""Settings of the API: limits, and how tools are written."""

from __future__ import annotations

from dataclasses import dataclass

from silva.config import setting

MIB = 1 << 20


@dataclass(frozen=True)
class ApiSettings:
    """What one front takes in. An *answer* is one choice of one prompt: n of them for each."""

    max_body_bytes: int = setting(8 * MIB, help="bytes of one request's body", low=1024)
    max_held_bytes: int = setting(
        64 * MIB, help="bytes of all bodies of requests under way", low=1024
    )
    max_prompt_tokens: int = setting(0, help="tokens of a prompt; 0: the context", low=0)
    max_prompts: int = setting(64, help="prompts in one request", low=1, high=4096)
    max_choices: int = setting(16, help="answers to one prompt", low=1, high=1024)
    max_answers: int = setting(512, help="answers asked and not finished", low=1)
    max_waiting: int = setting(256, help="of those, without a first token", low=1)
    max_answers_per_key: int = setting(
        0, help="unfinished answers of one API key; 0: no limit", low=0
    )
    max_schema_bytes: int = setting(65536, help="bytes of a JSON schema", low=64)
    max_schema_depth: int = setting(32, help="nesting of a JSON schema", low=1, high=64)
    body_timeout_s: float = setting(30.0, help="seconds for a body to arrive", low=0.1)
    send_timeout_s: float = setting(
        60.0, help="seconds for which a client may leave a stream unread", low=0.1
    )
    tool_format: str = setting(
        "auto",
        help="how the model writes tool calls; auto: as its chat template says",
        choices=("auto", "hermes", "llama3"),
    )
    reasoning_format: str = setting(
        "auto",
        help="whether <think> marks reasoning; auto: as the chat template says",
        choices=("auto", "think", "none"),
    )
