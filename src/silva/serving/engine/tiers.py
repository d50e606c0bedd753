"""The adapters that one computing process has in memory, by the digest of their content.

    packed = tiers.hold(path)       # each tier of the path, read where it is not here yet
    tiers.release(path)             # once for each hold

Objects never change, so a request keeps the tiers that it began with whatever becomes of the forest.
What somebody holds stays; of the rest the least recently used goes when there is no room. Roots are on
every path and clusters on many, so that in practice it is leaves that come and go.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from silva.adapters import codec
from silva.adapters.objects import ObjectStore
from silva.adapters.tiers import Tier
from silva.errors import ForestError, ModelError, ServingError
from silva.models.mixed import PackedTier

log = logging.getLogger("silva.engine")


class TierError(ServingError):
    """An adapter of a request cannot be read here; the log says why. Another peer may have it."""

    usual = "try again; the server's log says more"


@dataclass
class _Kept:
    tier: PackedTier
    size_bytes: int
    holders: int = 0


class Tiers:
    """See the module. For one thread."""

    def __init__(
        self, objects: Path, pack: Callable[[Tier], PackedTier], capacity_bytes: int
    ) -> None:
        """`objects`: the folder of a forest's objects. `pack`: a tier for the model that is served.

        capacity_bytes: of tiers that nobody holds and of those that somebody does; the latter may be
        more by themselves.
        """
        self._store, self._pack, self._capacity = ObjectStore(objects), pack, capacity_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        """The least recently used first."""
        self.used_bytes = self.read = self.found = 0

    def __len__(self) -> int:
        return len(self._kept)

    def hold(self, path: Sequence[str]) -> tuple[PackedTier, ...]:
        """The tiers of a path, to be released. Raises TierError, and then holds nothing."""
        held = []
        try:
            for digest in path:
                kept = self._kept.get(digest)
                if kept is None:
                    kept = self._read(digest)
                    self.read += 1
                else:
                    self.found += 1
                kept.holders += 1
                self._kept.move_to_end(digest)
                held.append(digest)
        except (ForestError, ModelError) as error:
            self.release(held)
            log.error("an adapter cannot be read: %s", error)
            raise TierError("an adapter of this model cannot be read") from error
        self._make_room()
        return tuple(self._kept[digest].tier for digest in path)

    def release(self, path: Sequence[str]) -> None:
        """The tiers of a path that was held may go."""
        for digest in path:
            self._kept[digest].holders -= 1
        self._make_room()

    def _read(self, digest: str) -> _Kept:
        where = self._store.folder / digest
        tier = self._pack(codec.decode_tier(self._store.get(digest), where))
        kept = self._kept[digest] = _Kept(tier, tier.size_bytes)
        self.used_bytes += kept.size_bytes
        return kept

    def _make_room(self) -> None:
        if self.used_bytes <= self._capacity:
            return
        for digest in [name for name, kept in self._kept.items() if not kept.holders]:
            self.used_bytes -= self._kept.pop(digest).size_bytes
            if self.used_bytes <= self._capacity:
                return
