"""Messages come back as they went, and bytes from elsewhere are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.control.request import Output, Phases, Request, SamplingParams, TokenLogprob
from silva.errors import ServingError
from silva.serving.wire.messages import (
    Beat,
    Found,
    HandOver,
    Hold,
    Message,
    Prefill,
    Prefilled,
    Status,
    Tokens,
    decode,
    encode,
)
from silva.serving.wire.messages import Load as PeerLoad
from silva.transfer.base import Piece, Region

PIECE = Piece(Region("shm", "12:3", 1 << 40, b"t" * 16), 1 << 33, 4096, 2**64 - 1)
REQUEST = Request(
    "r-1",
    (1, 2, 3),
    SamplingParams(logit_bias=((5, -1.5),), stop_token_ids=(2,), logprobs=3),
    namespace="key",
    emitted=(9,),
    attempt=4,
)


@pytest.mark.parametrize(
    "message",
    [
        Prefill(REQUEST),
        Prefilled("r", 1, 7, TokenLogprob(-0.5, ((7, -0.5),)), (PIECE,), 16, 1.0, 2.0, "stop"),
        HandOver("r", 1, 7, (PIECE, PIECE)),
        Tokens((3,), (Output("r", (1, 2), (), "length", 5, Phases(1.0, 2.0)),)),
        Found(3, (PIECE, None)),
        Hold((("r", 1), ("s", 0))),
        Beat(1.5),
        Status(PeerLoad(1, 2, 3, 4, 7), {"hits": 3.0}),
    ],
)
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except ServingError:
        return
    assert decode(encode(message)) == message


@given(st.data())
def test_a_damaged_message_is_refused_or_another_message(data: st.DataObject) -> None:
    whole = bytearray(encode(Prefill(REQUEST)))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ServingError):
        decode(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
