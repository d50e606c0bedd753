"""Latents in blocks: what is written is found, and attention is that over whole sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from silva.kernels.paged_latents import latent_attention, store_latents

RANK, SIZE, TOKENS, HEADS = 16, 24, 4, 3


def filled(contexts: list[int], dtype: torch.dtype) -> tuple[torch.Tensor, NDArray[np.int32]]:
    """A pool of layer views, as in an engine's memory, and the tables of sequences in it."""
    torch.manual_seed(0)
    blocks = 40
    pool = torch.full((blocks, 3, TOKENS, SIZE), float("nan"), dtype=dtype)[:, 1]
    order = np.random.default_rng(0).permutation(blocks).astype(np.int32)
    table = np.full((len(contexts), 8), -1, np.int32)
    for row, context in enumerate(contexts):
        count = -(-context // TOKENS)
        table[row, :count], order = order[:count], order[count:]
        slots = table[row, np.arange(context) // TOKENS] * np.int64(TOKENS)
        store_latents(torch.randn(context, SIZE), pool, slots + np.arange(context) % TOKENS)
    return pool, table


def written_out(
    q: torch.Tensor, latents: torch.Tensor, count: int, position: int, scale: float
) -> torch.Tensor:
    """One query, one head after the other."""
    seen = latents[: position + 1].double()
    weights = torch.stack([(seen @ head.double() * scale).softmax(0) for head in q])
    return weights @ seen[:, :RANK]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_several_sequences(dtype: torch.dtype) -> None:
    contexts, counts = [1, 17, 4, 30, 9], [1, 1, 4, 7, 2]
    pool, table = filled(contexts, dtype)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    q = torch.randn(int(starts[-1]), HEADS, SIZE)
    found = latent_attention(
        q, pool, table, starts, np.array(contexts, np.int32), rank=RANK, scale=0.3
    )
    assert found.shape == (len(q), HEADS, RANK)
    for row, (context, count) in enumerate(zip(contexts, counts, strict=True)):
        blocks = torch.from_numpy(table[row, : -(-context // TOKENS)]).long()
        latents = pool[blocks].flatten(0, 1)[:context]
        for n in range(count):
            at = int(starts[row]) + n
            expected = written_out(q[at], latents, count, context - count + n, 0.3)
            torch.testing.assert_close(found[at].double(), expected, atol=1e-5, rtol=1e-5)


def test_what_is_stored_goes_to_its_slots_only() -> None:
    pool = torch.zeros(5, TOKENS, SIZE)
    latent = torch.randn(3, SIZE)
    store_latents(latent, pool, np.array([0, 7, 19]))
    assert torch.equal(pool.flatten(0, 1)[[0, 7, 19]], latent)
    assert int((pool != 0).any(-1).sum()) == 3


@pytest.mark.parametrize("slot", [-1, 5 * TOKENS])
def test_a_slot_outside_is_refused(slot: int) -> None:
    pool = torch.zeros(5, TOKENS, SIZE)
    with pytest.raises(ValueError, match="outside"):
        store_latents(torch.ones(1, SIZE), pool, np.array([slot]))
    assert not pool.any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": SIZE - 1}, "does not fit"),
        ({"starts": [0, 1]}, "starts"),
        ({"contexts": [1]}, "more queries"),
        ({"contexts": [33]}, "longer than its block table"),
        ({"block": 40}, "does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], said: str) -> None:
    pool, table = filled([9], torch.float32)
    table[0, 0] = change.get("block", table[0, 0])
    q = torch.zeros(2, HEADS, int(str(change.get("size", SIZE))))
    starts = np.array(change.get("starts", [0, 2]), np.int32)
    contexts = np.array(change.get("contexts", [9]), np.int32)
    with pytest.raises(ValueError, match=said):
        latent_attention(q, pool, table, starts, contexts, rank=RANK, scale=1.0)
