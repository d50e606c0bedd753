from __future__ import annotations

import pytest
import torch

from silva.models.latent import CausalLatents, LatentHeads, attend_latents


def heads_of(heads: int = 3, nope: int = 6, value: int = 5, rank: int = 8) -> LatentHeads:
    source = torch.Generator().manual_seed(0)
    return LatentHeads(torch.randn(heads, nope + value, rank, generator=source), nope, 0.3)


def random_input(queries: int, keys: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return (
        torch.randn(queries, 3, 6 + 4, generator=source),
        torch.randn(keys, 8 + 4, generator=source),
    )


def by_hand(q: torch.Tensor, latents: torch.Tensor, heads: LatentHeads) -> torch.Tensor:
    """Token by token, head by head, as the formula says."""
    out = torch.empty(len(q), q.shape[1], heads.value_size)
    for n in range(len(q)):
        seen = latents[: len(latents) - len(q) + n + 1]
        for h in range(q.shape[1]):
            k = torch.cat([seen[:, :8] @ heads.up[h, :6].T, seen[:, 8:]], dim=1)
            v = seen[:, :8] @ heads.up[h, 6:].T
            out[n, h] = (k @ q[n, h] * heads.scale).softmax(0) @ v
    return out


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 9), (4, 4), (5, 12)])
def test_both_forms_are_the_formula(queries: int, keys: int) -> None:
    q, latents = random_input(queries, keys)
    heads = heads_of()
    expected = by_hand(q, latents, heads)
    for form in ("plain", "absorbed", "auto"):
        found = attend_latents(q, latents, heads, form)
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected)


def test_sequences_do_not_see_each_other() -> None:
    q, latents = random_input(9, 9)
    heads = heads_of()
    found = CausalLatents([2, 7])(0, q, latents, heads)
    torch.testing.assert_close(found[:2], by_hand(q[:2], latents[:2], heads))
    torch.testing.assert_close(found[2:], by_hand(q[2:], latents[2:], heads))


def test_expanding_pays_from_170_queries_on_in_deepseek_v3() -> None:
    heads = LatentHeads(torch.empty(128, 256, 512, device="meta"), 128, 1.0)
    assert round(heads.break_even(64)) == 171
    short = LatentHeads(torch.empty(2, 64, 16, device="meta"), 32, 1.0)
    assert short.break_even(8) == float("inf")
