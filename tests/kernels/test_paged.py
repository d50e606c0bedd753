"""Attention over blocks: both backends against torch in float64 with an explicit mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from silva.errors import MissingExtraError
from silva.kernels import Backend, native, native_loaded, paged

BACKENDS: list[Backend] = ["portable"] + (["native"] if native_loaded() else [])
FLOAT32 = 2e-5
BFLOAT16 = 3e-2


@dataclass
class Case:
    """Random sequences, their queries, and their keys and values scattered over a pool."""

    q: Tensor
    k: list[Tensor]
    v: list[Tensor]
    keys: Tensor
    values: Tensor
    table: NDArray[np.int32]
    starts: NDArray[np.int32]
    contexts: NDArray[np.int32]

    def attend(self, backend: Backend, threads: int = 1) -> Tensor:
        return paged.paged_attention(
            self.q,
            self.keys,
            self.values,
            self.table,
            self.starts,
            self.contexts,
            threads=threads,
            backend=backend,
        )

    def oracle(self) -> Tensor:
        """Every sequence by itself in double precision, lower-right mask, heads repeated."""
        pieces = []
        for i, (k, v) in enumerate(zip(self.k, self.v, strict=True)):
            q = self.q[self.starts[i] : self.starts[i + 1]]
            group = q.shape[1] // k.shape[1]
            sees = torch.arange(len(k)) <= torch.arange(len(k) - len(q), len(k))[:, None]
            pieces.append(
                torch.nn.functional.scaled_dot_product_attention(
                    q.double().transpose(0, 1),
                    k.double().transpose(0, 1).repeat_interleave(group, 0),
                    v.double().transpose(0, 1).repeat_interleave(group, 0),
                    attn_mask=sees,
                ).transpose(0, 1)
            )
        return torch.cat(pieces)


def make(
    sequences: list[tuple[int, int]],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    key_size: int = 16,
    value_size: int = 16,
    block_tokens: int = 16,
    dtype: torch.dtype = torch.float32,
    backend: Backend = "portable",
    seed: int = 0,
) -> Case:
    """`sequences` are (queries, context). What is not written in the pool is not a number."""
    draw = torch.Generator().manual_seed(seed)
    counts = [count for count, _ in sequences]
    contexts = np.array([context for _, context in sequences], np.int32)
    sizes = [-(-context // block_tokens) for context in contexts.tolist()]
    blocks = sum(sizes) + 2
    order = torch.randperm(blocks, generator=draw)[: sum(sizes)].split(sizes)
    table = np.full((len(sequences), max(sizes, default=0) + 1), -1, np.int32)
    width = kv_heads * block_tokens
    pool = torch.full((blocks, 3, width * (key_size + value_size)), torch.nan).to(dtype)
    keys = pool[:, 1, : width * key_size].unflatten(1, (kv_heads, key_size, block_tokens))
    values = pool[:, 1, width * key_size :].unflatten(1, (kv_heads, block_tokens, value_size))
    ks, vs, slots = [], [], []
    for i, context in enumerate(contexts.tolist()):
        table[i, : sizes[i]] = order[i].numpy()
        ks.append(torch.randn(context, kv_heads, key_size, generator=draw).to(dtype))
        vs.append(torch.randn(context, kv_heads, value_size, generator=draw).to(dtype))
        at = np.arange(context)
        slots.append(
            table[i, at // block_tokens].astype(np.int64) * block_tokens + at % block_tokens
        )
    paged.store_kv(torch.cat(ks), torch.cat(vs), keys, values, np.concatenate(slots), backend)
    q = torch.randn(sum(counts), heads, key_size, generator=draw)
    starts = np.cumsum([0, *counts]).astype(np.int32)
    return Case(q, ks, vs, keys, values, table, starts, contexts)


sequences_of_a_step = st.lists(
    st.integers(1, 280).flatmap(
        lambda context: st.tuples(st.integers(1, context), st.just(context))
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25)
@given(
    sequences=sequences_of_a_step,
    heads=st.sampled_from([(1, 1), (3, 3), (4, 2), (9, 3), (5, 1), (70, 1)]),
    sizes=st.sampled_from([(8, 8), (16, 16), (64, 64), (80, 80), (5, 7), (48, 32)]),
    block_tokens=st.sampled_from([1, 8, 12, 16, 32, 160]),
    seed=st.integers(0, 1000),
)
def test_attention_is_its_definition(
    backend: Backend,
    sequences: list[tuple[int, int]],
    heads: tuple[int, int],
    sizes: tuple[int, int],
    block_tokens: int,
    seed: int,
) -> None:
    case = make(
        sequences,
        heads=heads[0],
        kv_heads=heads[1],
        key_size=sizes[0],
        value_size=sizes[1],
        block_tokens=block_tokens,
        backend=backend,
        seed=seed,
    )
    torch.testing.assert_close(
        case.attend(backend).double(), case.oracle(), atol=FLOAT32, rtol=FLOAT32
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_keys_and_values(backend: Backend) -> None:
    case = make([(1, 90), (40, 200)], dtype=torch.bfloat16, backend=backend)
    torch.testing.assert_close(
        case.attend(backend).double(), case.oracle(), atol=FLOAT32, rtol=FLOAT32
    )
    case.q = case.q.bfloat16()
    out = case.attend(backend)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), case.oracle(), atol=BFLOAT16, rtol=BFLOAT16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [-30.0, 30.0])
def test_large_scores_neither_overflow_nor_vanish(backend: Backend, size: float) -> None:
    case = make([(1, 300), (20, 40)], backend=backend)
    case.q *= size
    torch.testing.assert_close(case.attend(backend).double(), case.oracle(), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not native_loaded(), reason="needs the native module")
def test_a_row_does_not_depend_on_its_company_nor_on_threads() -> None:
    sequences = [(1, 77), (33, 150), (1, 300), (64, 64)]
    case = make(sequences, heads=6, kv_heads=2)
    together = case.attend("native")
    for threads in (2, 3):
        assert torch.equal(case.attend("native", threads), together)
    for i in range(len(sequences)):
        rows = slice(case.starts[i], case.starts[i + 1])
        alone = paged.paged_attention(
            case.q[rows],
            case.keys,
            case.values,
            case.table[i : i + 1],
            np.array([0, rows.stop - rows.start], np.int32),
            case.contexts[i : i + 1],
        )
        assert torch.equal(alone, together[rows])


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_with_strides_are_read_in_place(backend: Backend) -> None:
    case = make([(3, 20), (1, 7)], backend=backend)
    expected = case.attend(backend)
    case.q = torch.stack([case.q, case.q.neg()], 1)[:, 0]
    torch.testing.assert_close(case.attend(backend), expected)
    case.q = case.q.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(case.attend(backend), expected)

    fused = torch.randn(4, 3, 2, 16)
    again = (case.keys.clone(), case.values.clone())
    slots = np.array([0, 5, 17, 16])
    paged.store_kv(fused[:, 1], fused[:, 2], *again, slots, backend)
    plain = (case.keys.clone(), case.values.clone())
    paged.store_kv(fused[:, 1].clone(), fused[:, 2].clone(), *plain, slots, backend)
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(again, plain, strict=True)
    )
    assert torch.equal(again[0][1, :, :, 1], fused[2, 1])
    assert torch.equal(again[1][1, :, 0], fused[3, 2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_scale_can_be_given(backend: Backend) -> None:
    case = make([(2, 30)], backend=backend)
    usual = case.attend(backend)
    out = paged.paged_attention(
        case.q * 4,
        case.keys,
        case.values,
        case.table,
        case.starts,
        case.contexts,
        scale=16**-0.5 / 4,
        backend=backend,
    )
    torch.testing.assert_close(out, usual)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_step_is_empty(backend: Backend) -> None:
    case = make([(1, 5)], backend=backend)
    out = paged.paged_attention(
        case.q[:0],
        case.keys,
        case.values,
        case.table[:0],
        np.zeros(1, np.int32),
        np.zeros(0, np.int32),
        backend=backend,
    )
    assert out.shape == (0, 4, 16)
    paged.store_kv(
        case.k[0][:0], case.v[0][:0], case.keys, case.values, np.zeros(0, np.int64), backend
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_does_not_fit_is_refused(backend: Backend) -> None:
    case = make([(2, 20)], backend=backend)
    pool = (case.keys, case.values)
    k, v = torch.zeros(1, 2, 16), torch.zeros(1, 2, 16)
    for slot in (-1, len(case.keys) * 16):
        with pytest.raises(ValueError, match="slot"):
            paged.store_kv(k, v, *pool, np.array([slot]), backend)
    with pytest.raises(ValueError, match="do not fit the pool"):
        paged.store_kv(k[:, :1], v, *pool, np.array([0]), backend)
    with pytest.raises(ValueError, match="do not fit"):
        paged.store_kv(k, v, case.keys, case.values.double(), np.array([0]), backend)
    with pytest.raises(ValueError, match="must be of"):
        paged.store_kv(k, v, case.keys.half(), case.values.half(), np.array([0]), backend)

    def attend(
        q: Tensor = case.q,
        table: object = case.table,
        starts: tuple[int, ...] = (0, 2),
        contexts: tuple[int, ...] = (20,),
    ) -> None:
        paged.paged_attention(
            q,
            *pool,
            np.array(table, np.int32),
            np.array(starts, np.int32),
            np.array(contexts, np.int32),
            backend=backend,
        )

    attend()
    with pytest.raises(ValueError, match="does not fit the keys"):
        attend(q=case.q[:, :3])
    with pytest.raises(ValueError, match="starts must"):
        attend(starts=(0, 1))
    with pytest.raises(ValueError, match="more queries than tokens"):
        attend(contexts=(1,))
    with pytest.raises(ValueError, match="longer than its block table"):
        attend(contexts=(60,))
    with pytest.raises(ValueError, match="does not exist"):
        attend(table=[[0, -1, 0]])
    with pytest.raises(ValueError, match="does not exist"):
        attend(table=[[0, len(case.keys), 0]])


def test_native_without_a_build_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make([(2, 20)])
    monkeypatch.setattr(native, "_compiled", None)
    with pytest.raises(MissingExtraError, match=r"C\+\+ compiler"):
        case.attend("native")
    torch.testing.assert_close(
        case.attend("auto").double(), case.oracle(), atol=FLOAT32, rtol=FLOAT32
    )
