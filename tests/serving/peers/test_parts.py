"""A pass that peers share arrives as it was sent."""

from __future__ import annotations

import numpy as np
import torch

from silva.models.kept import Latent
from silva.serving.engine.attend import PagedLatents
from silva.serving.engine.kv import KVMemory, KVShape
from silva.serving.peers.parts import before, parts_of, pass_of_parts, touched
from silva.serving.wire.messages import Part, SharedPass, decode, encode

SIZE = 4
PARTS = (Part(0, (5, 6, 7), (9,)), Part(6, (1, 2, 3), (2, 4, 7)), Part(8, (11,), (3, 1, 8)))


def memory() -> KVMemory:
    return KVMemory(KVShape(1, Latent(6), SIZE, torch.float32), 10)


def attention() -> tuple[PagedLatents, np.ndarray]:
    step, table = pass_of_parts(PARTS)
    attend = step.attention(table, memory(), 1, "portable")
    assert isinstance(attend, PagedLatents)
    return attend, step.tokens


def test_each_token_has_its_place_and_position() -> None:
    step, _ = pass_of_parts(PARTS)
    assert step.tokens.tolist() == [5, 6, 7, 1, 2, 3, 11]
    assert step.positions.tolist() == [0, 1, 2, 6, 7, 8, 8]
    attend, _ = attention()
    assert attend.contexts.tolist() == [3, 9, 9]
    assert attend.places.tolist() == [36, 37, 38, 18, 19, 28, 32]


def test_parts_of_a_pass_are_those_that_it_is_made_of() -> None:
    attend, tokens = attention()
    assert parts_of(torch.from_numpy(tokens), attend) == PARTS


def test_blocks_before_a_pass_and_those_it_writes_to() -> None:
    assert before(PARTS, SIZE) == [2, 4, 3, 1]
    assert touched(PARTS, SIZE) == [9, 4, 7, 8]
    assert before((PARTS[2], PARTS[2]), SIZE) == [3, 1]


def test_the_message_is_read_as_it_was_written() -> None:
    told = SharedPass(3, 17, True, PARTS)
    assert decode(encode(told)) == told
