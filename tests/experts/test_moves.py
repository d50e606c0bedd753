"""The moves of a round: compiled and portable write the same bytes into the same places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.errors import MissingExtraError
from silva.experts import futex
from silva.experts.layout import Layout, Topic
from silva.experts.memory import OwnMemory
from silva.experts.moves import Moves, make_moves
from silva.experts.routes import Routes
from silva.experts.sent import Sent
from silva.experts.sizes import BufferSizes
from silva.kernels import native_loaded
from silva.kernels.native import Backend

EXPERTS = 5
TABLES = [
    np.array([[0, 1, 2, 3, 4]]),
    np.array([[0, 1, 2], [3, 4, 0]]),
    np.array([[0, 1, -1], [2, 4, 0], [4, 2, -1]]),
]
"""The last has no replica of expert 3."""

both = pytest.mark.skipif(
    not (native_loaded() and futex.supported()), reason="needs the compiled module on x86-64 Linux"
)


class Group:
    """The memories of all ranks, and the moves of each."""

    def __init__(self, backend: Backend, sizes: BufferSizes, dtype: torch.dtype) -> None:
        memories = [OwnMemory(rank, sizes.total) for rank in range(sizes.ranks)]
        self.memories = dict(enumerate(memories))
        layouts = {rank: Layout(memory, sizes, dtype) for rank, memory in self.memories.items()}
        self.moves: list[Moves] = [
            make_moves(backend, rank, layouts, sizes, dtype) for rank in layouts
        ]

    def bytes(self) -> torch.Tensor:
        return torch.stack([memory.bytes for memory in self.memories.values()])


@both
@settings(max_examples=40, deadline=None)
@given(
    table=st.sampled_from(TABLES),
    tokens=st.lists(st.integers(0, 6), min_size=3, max_size=3),
    top_k=st.integers(1, 4),
    wire=st.sampled_from(["exact", "int8"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    dead=st.sampled_from([set(), {1}]),
    seed=st.integers(0, 99),
)
def test_both_forms_write_the_same_bytes_and_sum_alike(
    table: np.ndarray,
    tokens: list[int],
    top_k: int,
    wire: str,
    dtype: torch.dtype,
    dead: set[int],
    seed: int,
) -> None:
    ranks, slots = table.shape
    sizes = BufferSizes(ranks, 6, top_k, slots, 20, dtype.itemsize, wire)
    groups = [Group("portable", sizes, dtype), Group("native", sizes, dtype)]
    alive = [rank for rank in range(ranks) if rank not in dead or ranks == 1]
    source = torch.Generator().manual_seed(seed)
    sent: dict[int, tuple[Sent, torch.Tensor]] = {}
    for rank in alive:
        count = tokens[rank]
        x = (torch.randn(count, 20, generator=source) * 3).to(dtype)
        experts = torch.rand(count, EXPERTS, generator=source).topk(top_k).indices
        routes = Routes(table, EXPERTS, rank, dead)
        given = [g.moves[rank].send(alive, 7, Topic(3, 11), x, experts, routes) for g in groups]
        assert torch.equal(given[0].answers, given[1].answers)
        assert (given[0].counts == given[1].counts).all()
        sent[rank] = (given[0], torch.rand(count, top_k, generator=source))
    assert torch.equal(groups[0].bytes(), groups[1].bytes())
    for rank in alive:
        counts = np.array([sent[other][0].counts[rank] for other in alive])
        order = np.array([slot for slot in range(slots) if table[rank, slot] >= 0])[::-1].copy()
        if not counts.sum():
            continue
        rows = [group.moves[rank].gather(alive, counts, order) for group in groups]
        assert torch.equal(*rows)
        for group, some in zip(groups, rows, strict=True):
            group.moves[rank].answer(alive, 7, counts, order, some * 2)
    assert torch.equal(groups[0].bytes(), groups[1].bytes())
    for rank, (given, weights) in sent.items():
        found = [group.moves[rank].combine(given.answers, weights) for group in groups]
        # In the same order, but a processor may round a product and a sum together or apart.
        torch.testing.assert_close(*found, rtol=2e-6, atol=2e-6)


@both
@pytest.mark.parametrize("backend", ["portable", "native"])
def test_what_does_not_fit_is_refused_before_anything_is_written(backend: Backend) -> None:
    sizes = BufferSizes(2, 2, 1, 3, 8, 4)
    group = Group(backend, sizes, torch.float32)
    x, experts = torch.ones(3, 8), torch.zeros(3, 1, dtype=torch.int64)
    routes = Routes(np.array([[0, 1, 2], [3, 4, -1]]), EXPERTS, 0)
    with pytest.raises(ValueError, match="do not fit"):
        group.moves[0].send([0, 1], 1, Topic(0, 0), x, experts, routes)
    assert not group.bytes().any()


@both
def test_a_token_that_is_no_number_stays_none_and_harms_no_other() -> None:
    sizes = BufferSizes(1, 4, 1, 5, 8, 4, "int8")
    x = torch.arange(32.0).view(4, 8) - 16
    x[1, 3], x[2, 0] = float("nan"), float("inf")
    groups = [Group("portable", sizes, torch.float32), Group("native", sizes, torch.float32)]
    for group in groups:
        experts = torch.zeros(4, 1, dtype=torch.int64)
        routes = Routes(TABLES[0], EXPERTS, 0)
        counts = group.moves[0].send([0], 1, Topic(0, 0), x, experts, routes).counts
        rows = group.moves[0].gather([0], counts, np.arange(5))
        assert rows[[1, 2]].isnan().all()
        torch.testing.assert_close(rows[[0, 3]], x[[0, 3]], rtol=0, atol=0.07)
    assert torch.equal(groups[0].bytes(), groups[1].bytes())


@both
def test_tables_and_rows_that_do_not_fit_are_refused() -> None:
    sizes = BufferSizes(2, 2, 1, 3, 8, 4)
    moves = Group("native", sizes, torch.float32).moves[0]
    experts = torch.zeros(2, 1, dtype=torch.int64)
    good = Routes(TABLES[1], EXPERTS, 0)
    beyond = Routes(np.array([[1, 2, 3], [4, 1, 2], [0, 3, 4]]), EXPERTS, 0)
    for x, routes, what in (
        (torch.ones(1, 8), good, "are not 2 x 8"),
        (torch.ones(2, 8, dtype=torch.float64), good, "float64"),
        (torch.ones(2, 8), beyond, "no such place"),
    ):
        with pytest.raises(ValueError, match=what):
            moves.send([0, 1], 1, Topic(0, 0), x, experts, routes)
    order, counts = np.arange(3), np.array([[1, 0, 1], [0, 1, 0]])
    for ranks, came, slots, what in (
        ([0, 1], counts[:1], order, "not those of these ranks"),
        ([0, 1], counts[:, :2].copy(), order[:2], "not those of these ranks"),
        ([0, 1], counts + 2, order, "do not fit the buffers"),
        ([0, 1], counts * [[1], [-1]], order, "below zero"),
        ([0, 1], counts, order - 1, "no such slot"),
    ):
        with pytest.raises(ValueError, match=what):
            moves.gather(ranks, came, slots)
        with pytest.raises(ValueError, match=what):
            moves.answer(ranks, 1, came, slots, torch.zeros(int(came[:, slots].sum()), 8))
    with pytest.raises(ValueError, match="do not fit the buffers"):
        moves.gather([0, 2], counts, order)
    for made in (torch.zeros(2, 8), torch.zeros(3, 8, dtype=torch.bfloat16)):
        with pytest.raises(ValueError, match="are not 3 x 8"):
            moves.answer([0, 1], 1, counts, order, made)
    with pytest.raises(ValueError, match="not those of the answers"):
        moves.combine(experts, torch.ones(2, 2))
    with pytest.raises(ValueError, match="no such answer"):
        moves.combine(experts + 99, torch.ones(2, 1))


@both
def test_an_expert_that_is_none_is_refused() -> None:
    sizes = BufferSizes(1, 2, 1, 5, 8, 4)
    group = Group("native", sizes, torch.float32)
    for expert in (-1, EXPERTS):
        with pytest.raises(ValueError, match="no such expert"):
            group.moves[0].send(
                [0],
                1,
                Topic(0, 0),
                torch.ones(1, 8),
                torch.tensor([[expert]]),
                Routes(TABLES[0], EXPERTS, 0),
            )


def test_a_type_that_the_compiled_form_does_not_know_is_refused_by_name() -> None:
    sizes = BufferSizes(1, 2, 1, 5, 8, 2)
    with pytest.raises(MissingExtraError, match="float16"):
        Group("native", sizes, torch.float16)
