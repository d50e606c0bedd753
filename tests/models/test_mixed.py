"""Which rows go through which tier, and what is added to them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.adapters.tiers import LoraPair
from silva.models.mixed import Branch, Expansion, PackedTier, Run, add_runs, runs_of

TIERS = [PackedTier({}) for _ in range(6)]
PATHS = st.lists(
    st.tuples(st.lists(st.sampled_from(range(6)), max_size=3, unique=True), st.integers(1, 4)),
    max_size=8,
)


@given(PATHS)
@settings(max_examples=200)
def test_runs_cover_every_row_by_its_path_and_nothing_else(
    drawn: list[tuple[list[int], int]],
) -> None:
    drawn.sort(key=lambda each: each[0])
    paths, counts = [[TIERS[n] for n in path] for path, _ in drawn], [n for _, n in drawn]
    runs = runs_of(paths, np.array(counts, np.int32))
    rows = [path for path, count in zip(paths, counts, strict=True) for _ in range(count)]
    through: list[list[PackedTier]] = [[] for _ in rows]
    for run in runs:
        assert 0 <= run.start < run.stop <= len(rows)
        for row in range(run.start, run.stop):
            through[row].append(run.tier)
    assert [list(map(id, t)) for t in through] == [list(map(id, p)) for p in rows]
    beginnings = {tuple(path[:n]) for path, _ in drawn for n in range(1, len(path) + 1)}
    assert len(runs) == len(beginnings)


def test_what_is_added_is_the_product_of_the_pairs_at_its_columns() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 3, 7, generator=draw), torch.randn(5, 3, 9, generator=draw)
    pairs = [
        LoraPair(torch.randn(4, 2, generator=draw), torch.randn(2, 7, generator=draw)),
        LoraPair(torch.randn(3, 1, generator=draw), torch.randn(1, 7, generator=draw)),
    ]
    expansions = (Expansion.of(pairs[0], 2.0, x, 0, 0), Expansion.of(pairs[1], 2.0, x, 2, 6))
    tier = PackedTier({"map": Branch(torch.cat([p.A for p in pairs]).T, expansions)})
    wanted = y.clone()
    wanted[1:4, :, :4] += 2.0 * x[1:4] @ pairs[0].product().T
    wanted[1:4, :, 6:] += 2.0 * x[1:4] @ pairs[1].product().T
    assert add_runs(y, x, "map", [Run(1, 4, tier)]) is y
    torch.testing.assert_close(y, wanted, atol=1e-5, rtol=1e-5)
    before = y.clone()
    add_runs(y, x, "another map", [Run(0, 5, tier)])
    assert torch.equal(y, before)
