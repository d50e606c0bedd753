"""What the hub knows of one peer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from silva.control.admission import Admission
from silva.serving.wire.messages import Load, Role

PeerState = Literal["starting", "ready", "draining"]
"""draining: finishes what it has and gets nothing new."""

TOTALS = ("hits", "misses", "corrupt", "write_errors", "spoilt_transfers")
"""What peers count from the start of their process on; the rest of their counters rise and fall."""


@dataclass
class Peer:
    """One process, its role and what it was given."""

    name: str
    role: Role
    pid: int = 0
    follows: bool = False
    """It computes the steps of another peer of its role, and is given no requests."""
    state: PeerState = "starting"
    address: str = ""
    load: Load = field(default_factory=Load)
    counters: dict[str, float] = field(default_factory=dict)
    admission: Admission | None = None
    requests: dict[str, int] = field(default_factory=dict)
    """Blocks that each request given to it may need by now."""
    heard_s: float = 0.0
    reported_s: float = 0.0
    """When its counters came."""
    busy_s: float = 0.0
    """For how long it has been in its present step, as its last beat said."""
    silent: bool = False
    """Not heard of for too long: its requests went elsewhere, and it gets none until it speaks."""

    @property
    def usable(self) -> bool:
        return self.state == "ready" and not self.silent

    @property
    def serves(self) -> bool:
        """Whether it may be given requests now."""
        return self.usable and not self.follows

    @property
    def blocks_promised(self) -> int:
        return sum(self.requests.values())

    def has_room(self, blocks: int) -> bool:
        """Whether a request of `blocks` blocks fits beside those given to it.

        A peer without requests takes any: what can never fit was refused before.
        """
        if not self.serves:
            return False
        if not self.requests:
            return True
        most = self.load.most_running
        if self.role == "decode" and 0 < most <= len(self.requests):
            return False
        return self.blocks_promised + blocks <= self.load.blocks_total
