"""Limits of the hub."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubSettings:
    """See the module."""

    block_tokens: int = 16
    most_waiting: int = 512
    """Requests that wait for a peer; more are told to come back later."""
    most_prefills: int = 4
    """Requests that one prefill peer has at a time; the others keep their place in the queue."""
    most_attempts: int = 50
    most_stuck_ends: int = 3
    """Peers that had to be ended because a step with the request in it did not end. It may be to blame
    for that, and each end takes all others of the step with it.
    """
    suspect_after_s: float = 5.0
    """Seconds without a word after which a peer is not counted on."""
