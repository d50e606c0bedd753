"""The forest that a server answers for: one version at a time, changed while requests go on.

A request carries the digests of its adapters, so it ends with the version that it began with; a change
is another list of names for the requests that come after it. Others may commit to the folder too:
`reload` takes what is live there. Only erasing takes adapters away that an older request may need.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from silva.adapters import maintenance
from silva.adapters.forest import Forest
from silva.adapters.joining import Joined, add_leaf, join
from silva.adapters.probe_file import Probed, decode_probed
from silva.adapters.tiers import Tier
from silva.serving.backend import ModelCard
from silva.serving.forest_cards import forest_cards, served_forest
from silva.serving.forest_outline import outline


class LiveForest:
    """See the module. Methods block on the disk, and may be called by several threads."""

    def __init__(self, forest: Forest, base: ModelCard, model_digest: str) -> None:
        """Raises ForestError where the forest was grown on another model."""
        self._base, self._model_digest = base, model_digest
        self._images = forest.manifest.classes is not None
        self._lock = threading.Lock()
        self._forest, self._cards = self._taken(forest)

    @property
    def images(self) -> bool:
        """Whether it is a forest of images, and not of a language model."""
        return self._images

    @property
    def folder(self) -> Path:
        return self._forest.folder

    @property
    def cards(self) -> Sequence[ModelCard]:
        """The base first, then root, clusters and clients of the version that is answered for."""
        return self._cards

    def told(self) -> dict[str, Any]:
        """The version and what it holds, as plain JSON types."""
        manifest = self._forest.manifest
        return {
            "version": manifest.version,
            "parent": manifest.parent,
            "clusters": len(manifest.clusters),
            "clients": len(manifest.clients),
        }

    def outline(self) -> dict[str, Any]:
        """The same version with its clusters and clients (`silva.serving.forest_outline`)."""
        return outline(self._forest.manifest)

    def reload(self) -> None:
        """Answer for the version that is live on disk."""
        self._change(self.on_disk)

    def show(self, version: int) -> None:
        """Make an older version, or a newer one, live on disk, and answer for it."""

        def rolled() -> Forest:
            maintenance.rollback(self.folder, version)
            return self.on_disk()

        self._change(rolled)

    def join(self, client: str, probe: bytes) -> Joined:
        """Add a client by its probe, as a file (`silva.adapters.joining`)."""
        live = self.on_disk()
        return self.join_probed(live, client, decode_probed(probe, live.manifest, "the probe"))

    def join_probed(self, forest: Forest, client: str, probed: Probed) -> Joined:
        """The same for a probe that was made for `forest`, a version that was `on_disk` before."""
        found: list[Joined] = []

        def joined() -> Forest:
            found.append(join(forest, client, probed))
            return found[0].forest

        self._change(joined)
        return found[0]

    def add_leaf(self, forest: Forest, client: str, leaf: Tier, images: int) -> None:
        """Answer for a client with a leaf (`silva.adapters.joining.add_leaf`)."""
        self._change(lambda: add_leaf(forest, client, leaf, images))

    def remove(self, client: str) -> None:
        """Erase a client and every version that names it (`silva.adapters.maintenance.remove`)."""

        def removed() -> Forest:
            maintenance.remove(self.folder, client)
            return self.on_disk()

        self._change(removed)

    def on_disk(self) -> Forest:
        """The live version of the folder, which others may have committed."""
        return served_forest(self.folder, images=self._images)

    def _change(self, change: Callable[[], Forest]) -> None:
        with self._lock:
            self._forest, self._cards = self._taken(change())

    def _taken(self, forest: Forest) -> tuple[Forest, tuple[ModelCard, ...]]:
        cards = forest_cards(self._base, forest, self._model_digest)
        return forest, (self._base, *cards)
