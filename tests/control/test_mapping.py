"""The least loaded peer that is ready; and which rank a decode rank reads from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.control.mapping import (
    Health,
    PeerLoad,
    Role,
    by_name,
    choose_decode,
    choose_prefill,
    source_rank,
)

PEERS = st.lists(
    st.builds(
        PeerLoad,
        st.integers(0, 12).map(lambda n: f"peer-{n}"),
        st.sampled_from(Role),
        st.sampled_from(Health),
        st.integers(0, 3),
        st.integers(0, 100),
        st.sampled_from([0, 100]),
    ),
    max_size=8,
    unique_by=lambda peer: peer.name,
)


def prefill(name: str, tokens: int, requests: int = 0, health: Health = Health.READY) -> PeerLoad:
    return PeerLoad(name, Role.PREFILL, health, requests, tokens)


def test_the_fewest_prompt_tokens_ahead() -> None:
    peers = [prefill("prefill-0", 500), prefill("prefill-1", 300, 9), prefill("prefill-2", 400)]
    assert choose_prefill(peers) == "prefill-1"


def test_equal_peers_go_by_name() -> None:
    peers = [prefill(f"prefill-{number}", 0) for number in (10, 2, 3)]
    assert choose_prefill(peers) == choose_prefill(reversed(peers)) == "prefill-2"
    assert sorted(["b-1", "a-10", "a-9", "a"], key=by_name) == ["a", "a-9", "a-10", "b-1"]


@pytest.mark.parametrize("health", [Health.STARTING, Health.DRAINING, Health.DEAD])
def test_only_ready_peers_are_chosen(health: Health) -> None:
    peers = [prefill("prefill-0", 0, health=health)]
    assert choose_prefill(peers) is None and choose_prefill([]) is None
    assert choose_prefill([*peers, prefill("prefill-1", 999)]) == "prefill-1"
    assert choose_decode(peers) is None


def test_decode_goes_by_requests_then_by_memory() -> None:
    one = PeerLoad("decode-0", Role.DECODE, requests=3, tokens=100, capacity_tokens=1000)
    peers = [one, replace(one, name="decode-1", requests=2, tokens=900)]
    assert choose_decode(peers) == "decode-1"
    assert choose_decode(peers, needs_tokens=101) == "decode-0"
    assert choose_decode([one, replace(one, name="decode-1", tokens=50)]) == "decode-1"


@given(PEERS, st.integers(0, 120))
def test_the_choice_does_not_depend_on_the_order(peers: list[PeerLoad], needs: int) -> None:
    for choose, role in ((choose_prefill, Role.PREFILL), (choose_decode, Role.DECODE)):
        ready = {p.name for p in peers if p.role is role and p.health is Health.READY}
        chosen = choose(peers)
        assert chosen == choose(peers[::-1])
        assert (chosen in ready) if ready else chosen is None
    assert choose_decode(peers, needs) == choose_decode(peers[::-1], needs)


def test_the_example_of_the_paper() -> None:
    """Prefill TP 32, decode TP 1, DP 320: ratio 32, groups of 10 (section 4.6)."""
    ranks = [
        source_rank(prefill_tp_size=32, decode_tp_size=1, decode_dp_size=320, decode_dp_rank=rank)
        for rank in range(320)
    ]
    assert ranks == [rank // 10 for rank in range(320)]


@given(st.integers(1, 8), st.sampled_from([1, 2, 4]), st.integers(1, 40))
def test_readers_are_spread_evenly(ratio: int, tp: int, dp: int) -> None:
    ranks = [
        source_rank(
            prefill_tp_size=ratio * tp,
            decode_tp_size=tp,
            decode_dp_size=dp,
            decode_dp_rank=dp_rank,
            decode_tp_rank=tp_rank,
        )
        for dp_rank in range(dp)
        for tp_rank in range(tp)
    ]
    readers = Counter(ranks)
    assert set(readers) <= set(range(ratio * tp))
    counts = [readers[rank] for rank in range(ratio * tp)]
    assert max(counts) - min(counts) <= 1
    assert all(rank % tp == place % tp for place, rank in enumerate(ranks))


@pytest.mark.parametrize(
    "wrong", [(3, 2, 4, 0, 0), (2, 2, 0, 0, 0), (4, 2, 4, 4, 0), (4, 2, 4, 0, 2)]
)
def test_impossible_ranks(wrong: tuple[int, int, int, int, int]) -> None:
    names = (
        "prefill_tp_size",
        "decode_tp_size",
        "decode_dp_size",
        "decode_dp_rank",
        "decode_tp_rank",
    )
    with pytest.raises(ValueError, match=r"sizes must be|no rank"):
        source_rank(**dict(zip(names, wrong, strict=True)))
