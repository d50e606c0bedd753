from __future__ import annotations

import torch

from silva.models.attention import CausalAttention, causal


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Token by token, head by head, as the formula says; the queries are the last tokens."""
    out = torch.empty_like(q)
    group = q.shape[1] // k.shape[1]
    for n in range(len(q)):
        seen = len(k) - len(q) + n + 1
        for h in range(q.shape[1]):
            scores = k[:seen, h // group] @ q[n, h] / q.shape[2] ** 0.5
            out[n, h] = scores.softmax(0) @ v[:seen, h // group]
    return out


def random_qkv(queries: int, keys: int, seed: int = 0) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    shapes = ((queries, 6, 8), (keys, 2, 8), (keys, 2, 8))
    return [torch.randn(*shape, generator=source) for shape in shapes]


def test_queries_are_the_last_tokens_of_the_keys() -> None:
    for queries, keys in ((1, 1), (1, 9), (4, 4), (5, 12)):
        q, k, v = random_qkv(queries, keys)
        torch.testing.assert_close(causal(q, k, v), by_hand(q, k, v))


def test_sequences_do_not_see_each_other() -> None:
    lengths = [3, 1, 7]
    q, k, v = random_qkv(11, 11)
    found = CausalAttention(lengths)(0, q, k, v)
    start = 0
    for length in lengths:
        here = slice(start, start + length)
        torch.testing.assert_close(found[here], by_hand(q[here], k[here], v[here]))
        start += length


def test_views_with_strides_are_taken_and_the_result_is_contiguous() -> None:
    qkv = torch.randn(5, 3, 4, 8)
    q, k, v = qkv.unbind(1)
    found = CausalAttention([5])(0, q, k, v)
    assert found.is_contiguous()
    torch.testing.assert_close(found, by_hand(q, k, v))
