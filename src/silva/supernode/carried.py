"""What part of the time links carry something: seconds of transfers over those in which links were.

Nobody waits for a link in a simulation: where a share comes near 1, they would.
"""

from __future__ import annotations

from collections.abc import Iterable

from silva.supernode.cluster import Cluster
from silva.supernode.system import System


class Carried:
    """Adds up seconds of hand-overs, on the links of the dies of prefill, and of reads from the
    context cache, on one link of each instance that computes prompts.
    """

    def __init__(self, cluster: Cluster, system: System) -> None:
        self._instances, self._dies = cluster.prefill or cluster.decode, system.prefill.dies
        self._hand_over_s = self._cache_s = 0.0

    def hand_over(self, seconds: float) -> None:
        """The KV of a prompt travels for so long."""
        self._hand_over_s += seconds

    def read(self, seconds: float) -> None:
        """Blocks of the cache travel for so long."""
        self._cache_s += seconds

    def shares(self, seconds: float, moves: Iterable[tuple[float, str, str]]) -> dict[str, float]:
        """Of a run of so many seconds; instances are lost for a while, but not their links.

        `moves` are changes of roles, as in `Records`: each makes one instance of prefill more, or
        one fewer, from its time on.
        """
        instances_s = self._instances * seconds
        for at_s, _, new in moves:
            instances_s += (seconds - at_s) * (1 if new.startswith("prefill-") else -1)
        return {
            "hand-over": self._hand_over_s / (instances_s * self._dies),
            "cache": self._cache_s / instances_s,
        }
