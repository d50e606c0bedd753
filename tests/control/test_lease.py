"""A lease holds as long as its owner says so; who comes late is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.control.lease import LeaseExpiredError, Leases


def test_a_lease_without_heartbeat_falls_due_once() -> None:
    leases = Leases()
    first = leases.grant("a", "r1", now_s=0, ttl_s=5)
    second = leases.grant("b", "r2", now_s=1, ttl_s=1)
    assert leases.next_due_s() == 2
    assert leases.expire(1.9) == ()
    assert leases.expire(5) == (second, first)
    assert leases.expire(100) == () and len(leases) == 0 and leases.next_due_s() is None


def test_a_heartbeat_prolongs_and_never_shortens() -> None:
    leases = Leases()
    lease = leases.grant("a", "r", now_s=0, ttl_s=5)
    assert leases.renew(lease.id, now_s=1, ttl_s=1).expires_s == 5
    assert leases.renew(lease.id, now_s=4, ttl_s=5).expires_s == 9
    assert leases.expire(8.9) == ()
    assert [due.id for due in leases.expire(9)] == [lease.id]


def test_late_use_is_refused_even_before_expire_ran() -> None:
    leases = Leases()
    lease = leases.grant("a", "r", now_s=0, ttl_s=5)
    assert leases.check(lease.id, 4.9) == lease
    for use in (leases.check, leases.release, lambda i, now: leases.renew(i, now, 5)):
        with pytest.raises(LeaseExpiredError, match="has run out"):
            use(lease.id, 5)
    assert leases.expire(5) == (lease,)


def test_a_released_lease_is_over_and_its_id_is_not_used_again() -> None:
    leases = Leases()
    lease = leases.grant("a", "r", now_s=0, ttl_s=5)
    assert leases.release(lease.id, 1) == lease
    again = leases.grant("b", "r", now_s=1, ttl_s=5)
    assert again.id != lease.id
    with pytest.raises(LeaseExpiredError):
        leases.release(lease.id, 1)
    assert leases.expire(100) == (again,)


def test_leases_of_a_dead_owner_end() -> None:
    leases = Leases()
    a1, b, a2 = (leases.grant(owner, "r", now_s=0, ttl_s=5) for owner in "aba")
    assert leases.revoke("a") == (a1, a2)
    assert leases.expire(10) == (b,)


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan")])
def test_leases_take_time(ttl_s: float) -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        Leases().grant("a", "r", now_s=0, ttl_s=ttl_s)


@given(st.lists(st.tuples(st.sampled_from("gnrxe"), st.integers(0, 9)), max_size=60))
def test_agrees_with_a_plain_model(moves: list[tuple[str, int]]) -> None:
    leases = Leases()
    model: dict[int, float] = {}
    now, granted = 0.0, 0
    for move, value in moves:
        now += value / 4
        known = [i for i in range(1, granted + 1) if model.get(i, 0) > now]
        if move == "g":
            granted += 1
            assert leases.grant("o", "r", now, 1 + value).id == granted
            model[granted] = now + 1 + value
        elif move == "e":
            due = sorted((end, i) for i, end in model.items() if end <= now)
            assert [lease.id for lease in leases.expire(now)] == [i for _, i in due]
            for _, i in due:
                del model[i]
        elif granted:
            lease_id = 1 + value % granted
            if lease_id not in known:
                with pytest.raises(LeaseExpiredError):
                    leases.check(lease_id, now)
            elif move == "n":
                leases.renew(lease_id, now, 2)
                model[lease_id] = max(model[lease_id], now + 2)
            elif move == "x":
                leases.release(lease_id, now)
                del model[lease_id]
        assert len(leases) == len(model)
        assert leases.next_due_s() == min(model.values(), default=None)


def test_heartbeats_take_no_memory() -> None:
    leases = Leases()
    lease = leases.grant("a", "r", now_s=0, ttl_s=5)
    for now in range(1000):
        leases.renew(lease.id, now, ttl_s=5)
    assert len(leases._due) < 100
