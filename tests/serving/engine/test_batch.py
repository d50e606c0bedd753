"""The batch's arrays against a dictionary that does the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.serving.engine.batch import Batch

ORDERS = st.lists(
    st.tuples(st.sampled_from(["append", "join", "forget"]), st.integers(0, 9), st.integers(1, 7)),
    max_size=120,
)


@given(ORDERS)
def test_the_arrays_say_what_a_dictionary_would(orders: list[tuple[str, int, int]]) -> None:
    batch = Batch(slots=1, width=1)
    tables: dict[str, list[int]] = {}
    decoding: dict[str, tuple[int, int]] = {}
    for number, (order, who, count) in enumerate(orders):
        name = f"r{who}"
        if order == "append":
            blocks = list(range(number, number + count))
            if name not in tables:
                batch.enter(name)
            tables.setdefault(name, []).extend(blocks)
            batch.append(name, blocks)
        elif order == "join" and name in tables and name not in decoding:
            decoding[name] = (number, count)
            batch.join(name, number, count)
        elif order == "forget":
            slot = batch.forget(name)
            assert (slot is None) == (name not in tables)
            tables.pop(name, None)
            decoding.pop(name, None)
    slots = {name: batch.slot(name) for name in tables}
    assert len(set(slots.values())) == len(slots) and None not in slots.values()
    for name, blocks in tables.items():
        slot = slots[name]
        assert batch.blocks_held(name) == len(blocks)
        assert batch.table[slot, : len(blocks)].tolist() == blocks
    assert set(batch.names) == set(decoding)
    rows = batch.rows
    assert rows.tolist() == [slots[name] for name in batch.names]
    found = zip(batch.tokens[rows].tolist(), batch.positions[rows].tolist(), strict=True)
    assert dict(zip(batch.names, found, strict=True)) == decoding
    assert batch.slot("unknown") is None and batch.blocks_held("unknown") == 0


def test_nobody_enters_or_joins_twice() -> None:
    batch = Batch()
    batch.enter("a")
    with pytest.raises(KeyError):
        batch.enter("a")
    batch.join("a", 1, 2)
    with pytest.raises(KeyError):
        batch.join("a", 1, 2)
    assert np.array_equal(batch.rows, [0])
