"""Every message between the front, its peers and the cache; on the wire as MessagePack.

A request is known by its id and attempt: when a peer is lost the front asks another with the next
attempt, and what still comes of the older one is refused.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from silva.control.admission import Admission
from silva.control.request import FinishReason, Output, Request, TokenLogprob
from silva.errors import ServingError
from silva.transfer.base import Piece

Role = Literal["prefill", "decode", "cache"]

LARGEST_MESSAGE_BYTES = 64 << 20
"""A prompt of a million tokens takes 5 MB; a larger message is a defect."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """Anything that is sent."""


class About(Message, frozen=True, tag=True):
    """A message about one attempt at one request."""

    request: str
    attempt: int


class Member(msgspec.Struct, frozen=True):
    """A cache peer and the address of its socket."""

    name: str
    address: str


class Members(Message, frozen=True):
    """front -> peers: the cache peers that share the keys from now on."""

    caches: tuple[Member, ...]


class Prefill(Message, frozen=True):
    """front -> prefill: compute this prompt, sample one token, hold the blocks."""

    request: Request


class Hold(Message, frozen=True):
    """front -> prefill, every half second: the blocks of these attempts are still to be read."""

    attempts: tuple[tuple[str, int], ...]
    """Requests and their attempts."""


class Reserve(Message, frozen=True):
    """front -> decode: keep room for this request, whose blocks are on their way."""

    request: Request


class Prefilled(About, frozen=True):
    """prefill -> front: the first token is here, and the blocks can be read until released."""

    token: int
    logprob: TokenLogprob | None
    pieces: tuple[Piece, ...]
    cached_tokens: int
    started_s: float
    done_s: float
    finish: FinishReason | None = None
    """Where the first token is the last: no decode peer is needed."""
    draft: int | None = None
    """What a draft module guesses that follows the first token."""


class HandOver(About, frozen=True):
    """front -> decode: read these blocks and go on after this token."""

    token: int
    pieces: tuple[Piece, ...]
    draft: int | None = None
    """See `Prefilled`."""


class Joined(About, frozen=True):
    """decode -> front: the blocks were read and are right; the prefill peer may forget them."""


class Rejected(About, frozen=True):
    """peer -> front: this attempt has failed here; the front tries again elsewhere."""

    why: str


class Failed(About, frozen=True):
    """peer -> front: the request cannot be served here or anywhere else; the client is told why."""

    why: str


class Cancel(About, frozen=True):
    """front -> peer: give the request's blocks back and say no more of it."""


class Tokens(Message, frozen=True):
    """decode -> front: what one step gave to whom; `attempts` has one entry an output."""

    attempts: tuple[int, ...]
    outputs: tuple[Output, ...]


class Load(msgspec.Struct, frozen=True):
    """How much a peer has to do. Blocks are counted whole; `free + used == total` always."""

    waiting: int = 0
    running: int = 0
    blocks_free: int = 0
    blocks_used: int = 0
    blocks_total: int = 0
    most_running: int = 0
    """Requests that decode together at most, by the target of time per token; 0: no limit."""


class Status(Message, frozen=True):
    """peer -> front, every half second and when much changed: it is alive, and its counts."""

    load: Load
    counters: dict[str, float]
    admission: Admission | None = None
    """Of a decode peer."""


class Beat(Message, frozen=True):
    """peer -> front, every half second, beside whatever it computes: its process runs."""

    busy_s: float
    """Seconds for which the peer's own thread has been in the present step."""


class Hello(Message, frozen=True):
    """peer -> front: first message of a process, when it can take requests."""

    name: str
    role: Role
    pid: int
    address: str = ""
    """Where a cache peer answers lookups."""
    load: Load = Load()


class Stop(Message, frozen=True):
    """front -> peer: leave now. Where something is to be finished first the front waits for it."""


class Part(msgspec.Struct, frozen=True):
    """One sequence in a step that peers share."""

    first: int
    """Position of its first token in the step: so many tokens lie in its blocks already."""
    tokens: tuple[int, ...]
    blocks: tuple[int, ...]
    """Of all its tokens up to the last in the step, in order."""


class SharedPass(Message, frozen=True):
    """prefill peer that leads -> those that follow: compute this pass with me."""

    number: int
    """Votes of the group so far: the next one is for this pass."""
    step: int
    """Passes that were shared so far."""
    draft: bool
    """Whether it is of the draft module, after the pass of the model that it belongs to."""
    parts: tuple[Part, ...]
    pieces: tuple[tuple[int, Piece], ...] = ()
    """Blocks that the follower lacks, and where they are to be read first."""


class Lookup(Message, frozen=True):
    """prefill -> cache: which of these keys are here? Answered by Found."""

    number: int
    namespace: str
    keys: tuple[bytes, ...]
    request: str = ""
    """On whose behalf, for the log."""


class Found(Message, frozen=True):
    """cache -> prefill: a piece for each key, None where it is not here. Pinned until Forget."""

    number: int
    pieces: tuple[Piece | None, ...]


class Forget(Message, frozen=True):
    """prefill -> cache: the pieces of this lookup were read."""

    number: int


class Put(Message, frozen=True):
    """peer -> cache: fetch these blocks from me, and say Kept when you did or did not."""

    number: int
    namespace: str
    keys: tuple[bytes, ...]
    pieces: tuple[Piece, ...]


class Kept(Message, frozen=True):
    """cache -> peer: the blocks of this Put are no longer needed."""

    number: int


AnyMessage = (
    Members
    | Prefill
    | Hold
    | Reserve
    | Prefilled
    | HandOver
    | Joined
    | Rejected
    | Failed
    | Cancel
    | Tokens
    | Status
    | Beat
    | Hello
    | Stop
    | SharedPass
    | Lookup
    | Found
    | Forget
    | Put
    | Kept
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """The bytes of one message."""
    return _encoder.encode(message)


def decode(data: bytes) -> AnyMessage:
    """The message in `data`. Raises ServingError when it is none of silva's or too long."""
    if len(data) > LARGEST_MESSAGE_BYTES:
        raise ServingError(f"a message of {len(data)} bytes is too long")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ServingError(f"not a message of silva: {str(error)[:200]}") from None
