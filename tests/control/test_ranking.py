"""A ranking chooses as the functions of the mapping do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from silva.control.mapping import Health, PeerLoad, Role, choose_decode, choose_prefill
from silva.control.ranking import Ranking

CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "withdraw", "reset"]), st.integers(0, 11), st.integers(1, 9)),
    max_size=60,
)


@given(CHANGES, st.sampled_from([Role.PREFILL, Role.DECODE]), st.integers(0, 20))
def test_it_chooses_as_the_mapping(
    changes: list[tuple[str, int, int]], role: Role, needs: int
) -> None:
    capacities = [(0, 30, 12)[number % 3] for number in range(12)]
    ranking = Ranking(role, capacities)
    given_to: list[list[int]] = [[] for _ in range(12)]
    ready = [True] * 12
    for what, peer, tokens in changes:
        held = given_to[peer]
        if what == "withdraw":
            ranking.withdraw(peer)
            ready[peer] = False
        elif what == "reset":
            ranking.reset(peer)
            given_to[peer], ready[peer] = [], True
        elif len(held) > 2:
            ranking.add(peer, -held.pop(0), -1)
        elif ready[peer]:
            ranking.add(peer, tokens)
            held.append(tokens)
        peers = [
            PeerLoad(
                f"{role.value}-{number}",
                role,
                Health.READY if ready[number] else Health.DRAINING,
                len(own),
                sum(own),
                capacities[number],
            )
            for number, own in enumerate(given_to)
        ]
        wanted = choose_prefill(peers) if role is Role.PREFILL else choose_decode(peers, needs)
        found = ranking.choose(needs)
        assert (None if found is None else f"{role.value}-{found}") == wanted


def test_nobody_is_chosen_of_none() -> None:
    assert Ranking(Role.PREFILL, []).choose() is None
