"""Leases: something is held for another process, for as long as that one says it is there.

    leases = Leases()
    lease = leases.grant("decode-1", "request-7", now_s, ttl_s=10)
    leases.renew(lease.id, now_s, ttl_s=10)            # its heartbeat
    for due in leases.expire(now_s): ...               # it went silent: take the resource back

Ids are never used twice, so that one who comes back late cannot touch what was granted since.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace


class LeaseExpiredError(Exception):
    """The lease has run out, was released or never was: what it held may be somebody else's."""


@dataclass(frozen=True)
class Lease:
    """`resource` is held for `owner` until `expires_s`, on the clock of whoever granted it."""

    id: int
    owner: str
    resource: str
    expires_s: float


class Leases:
    """All leases that one process has granted. Time is an argument and must not run backwards.

    A lease is good while `now_s < expires_s`; every use of one that is not raises
    LeaseExpiredError, whether or not `expire` has been called in the meantime.
    """

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._due: list[tuple[float, int]] = []
        self._next_id = 1

    def __len__(self) -> int:
        """Leases granted and neither released nor reported by `expire`."""
        return len(self._leases)

    def grant(self, owner: str, resource: str, now_s: float, ttl_s: float) -> Lease:
        """A new lease that is good for `ttl_s` seconds. ValueError unless that is positive."""
        lease = Lease(self._next_id, owner, resource, _end(now_s, ttl_s))
        self._next_id += 1
        self._enter(lease)
        return lease

    def check(self, lease_id: int, now_s: float) -> Lease:
        """The lease, if it is good."""
        lease = self._leases.get(lease_id)
        if lease is None or now_s >= lease.expires_s:
            raise LeaseExpiredError(f"lease {lease_id} has run out, or was released")
        return lease

    def renew(self, lease_id: int, now_s: float, ttl_s: float) -> Lease:
        """A heartbeat: good for `ttl_s` from now on, and never for a shorter time than before."""
        lease = self.check(lease_id, now_s)
        lease = replace(lease, expires_s=max(lease.expires_s, _end(now_s, ttl_s)))
        self._enter(lease)
        return lease

    def release(self, lease_id: int, now_s: float) -> Lease:
        """Its owner needs it no longer; the resource is the caller's to free."""
        lease = self.check(lease_id, now_s)
        del self._leases[lease_id]
        return lease

    def expire(self, now_s: float) -> tuple[Lease, ...]:
        """Leases that have run out, earliest first, each reported once: free what they held."""
        out = []
        while self._due and self._due[0][0] <= now_s:
            lease = self._leases.get(heapq.heappop(self._due)[1])
            if lease is not None and lease.expires_s <= now_s:
                del self._leases[lease.id]
                out.append(lease)
        return tuple(out)

    def revoke(self, owner: str) -> tuple[Lease, ...]:
        """End all leases of an owner that is known to be dead, in the order they were granted."""
        out = [lease for lease in self._leases.values() if lease.owner == owner]
        for lease in out:
            del self._leases[lease.id]
        return tuple(sorted(out, key=lambda lease: lease.id))

    def next_due_s(self) -> float | None:
        """When `expire` has something to report at the earliest; None when nothing is leased."""
        while self._due and not self._current(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def _enter(self, lease: Lease) -> None:
        self._leases[lease.id] = lease
        heapq.heappush(self._due, (lease.expires_s, lease.id))
        if len(self._due) > 64 + 4 * len(self._leases):  # renewals leave their old times behind
            self._due = [(each.expires_s, each.id) for each in self._leases.values()]
            heapq.heapify(self._due)

    def _current(self, entry: tuple[float, int]) -> bool:
        lease = self._leases.get(entry[1])
        return lease is not None and lease.expires_s == entry[0]


def _end(now_s: float, ttl_s: float) -> float:
    if not ttl_s > 0:
        raise ValueError(f"ttl_s must be positive, but is {ttl_s}")
    return now_s + ttl_s
