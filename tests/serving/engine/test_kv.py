"""Memory of keys and values: where blocks lie, and that their bytes are all there is of them."""

from __future__ import annotations

import mmap
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from silva.errors import ServingError
from silva.models.kept import Heads, Latent
from silva.models.language import LanguageModel
from silva.serving.engine.kv import KVMemory, KVShape

HEADS = Heads(2, 8, 6)
SHAPE = KVShape(3, HEADS, 4, torch.float32)
LATENT = KVShape(3, Latent(10), 4, torch.float32)


def test_the_shape_is_that_of_the_model(model: LanguageModel) -> None:
    c = model.config
    shape = KVShape.of(c, 16, model.dtype)
    assert isinstance(c.kept, Heads)
    assert (shape.layers, shape.kept) == (c.layers, c.kept)
    assert shape.block_bytes == c.layers * 2 * c.kept.kv_heads * c.kept.key_size * 16 * 4
    assert KVShape.of(c, 16, model.dtype, drafts=1).layers == c.layers + 1


def test_a_latent_takes_its_own_values_and_no_more() -> None:
    assert KVShape(61, Latent(512 + 64), 1, torch.bfloat16).block_bytes == 70_272
    memory = KVMemory(LATENT, 5)
    for layer in range(3):
        memory.latents[layer].add_(1.0)
    for block in range(5):
        content = torch.frombuffer(memory.block(block), dtype=torch.float32)
        assert content.numel() * 4 == LATENT.block_bytes == 3 * 10 * 4 * 4
        assert bool((content == 1.0).all())
    assert memory.latents[1].shape == (5, 4, 10)
    assert not memory.keys and not memory.values


def test_views_cover_every_byte_once() -> None:
    memory = KVMemory(SHAPE, 5)
    for layer in range(3):
        memory.keys[layer].add_(1.0)
        memory.values[layer].add_(1.0)
    for block in range(5):
        content = torch.frombuffer(memory.block(block), dtype=torch.float32)
        assert content.numel() * 4 == SHAPE.block_bytes
        assert bool((content == 1.0).all())
    assert memory.keys[1].shape == (5, 2, 8, 4)
    assert memory.values[1].shape == (5, 2, 4, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_moves_as_bytes(dtype: torch.dtype) -> None:
    shape = KVShape(3, HEADS, 4, dtype)
    one, two = KVMemory(shape, 4), KVMemory(shape, 9)
    for layer in range(3):
        one.keys[layer].normal_()
        one.values[layer].normal_()
    two.block(7)[:] = one.block(2)
    for layer in range(3):
        assert torch.equal(two.keys[layer][7], one.keys[layer][2])
        assert torch.equal(two.values[layer][7], one.values[layer][2])
        assert not two.keys[layer][6].any()


def test_memory_of_the_caller_is_used_in_place() -> None:
    size = 4 * SHAPE.block_bytes
    region = mmap.mmap(-1, 4096 + size + 10)
    memory = KVMemory(SHAPE, 4, memoryview(region)[4096:])
    memory.keys[0][1].fill_(2.0)
    start = 4096 + memory.offset(1)
    assert region[start : start + 4] == b"\x00\x00\x00\x40"
    assert region[4096 : 4096 + memory.offset(1)] == bytes(memory.offset(1))


@pytest.mark.parametrize(
    "buffer",
    [bytes(2 * SHAPE.block_bytes), bytearray(SHAPE.block_bytes), memoryview(bytearray(9999))[::2]],
)
def test_a_buffer_that_does_not_do_is_refused(buffer: bytearray) -> None:
    with pytest.raises(ValueError, match="a pool of 2 blocks needs"):
        KVMemory(SHAPE, 2, buffer)


@given(spare=st.integers(0, SHAPE.block_bytes - 1), blocks=st.integers(1, 50))
def test_blocks_in_a_budget(spare: int, blocks: int) -> None:
    assert SHAPE.blocks_in(blocks * SHAPE.block_bytes + spare) == blocks
    with pytest.raises(ServingError, match="hold no block"):
        SHAPE.blocks_in(spare)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_block_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError):
        KVMemory(SHAPE, 4).block(index)


def test_memory_goes_with_its_last_user() -> None:
    memory = KVMemory(SHAPE, 4)
    gone = weakref.ref(memory)
    del memory
    assert gone() is None
