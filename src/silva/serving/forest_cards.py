"""The names of a forest in the API: MODEL@root, MODEL@cluster-2, MODEL@c-17."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from silva.adapters.forest import Forest
from silva.adapters.manifest import Manifest
from silva.errors import ForestError
from silva.serving.backend import ModelCard


def served_forest(folder: Path, *, images: bool = False) -> Forest:
    """The live version of a forest of a language model, or of `images`.

    Raises ForestError for one of the other kind.
    """
    forest = Forest.load(folder)
    if (forest.manifest.classes is not None) != images:
        kind, other = ("images", "language") if images else ("language", "images")
        raise ForestError(
            f"is a forest of {other}, and the model that is served is one of {kind}",
            where=folder,
            remedy=f"serve {forest.base.id[:80]}",
        )
    return forest


def forest_cards(base: ModelCard, forest: Forest, model_digest: str) -> list[ModelCard]:
    """A card for every name of a forest: root, clusters, clients.

    Raises ForestError where the model that is served is not the one under the forest.
    """
    if forest.base.digest != model_digest:
        raise ForestError(
            f"was grown on other weights than those of {base.id}",
            where=forest.folder,
            remedy=f"serve {forest.base.id[:80]} in the type it was tuned in, float32",
        )
    return _cards(base, forest.manifest)


def _cards(base: ModelCard, manifest: Manifest) -> list[ModelCard]:
    def card(name: str, above: ModelCard, digest: str | None) -> ModelCard:
        path = above.path if digest is None else (*above.path, digest)
        id_ = f"{base.id}@{name}"
        return replace(base, id=id_, parent=above.id, root=base.id, path=path)

    root = card("root", base, manifest.root)
    clusters = {
        name: card(name, root, manifest.clusters[name].object)
        for name in sorted(manifest.clusters, key=lambda name: int(name.removeprefix("cluster-")))
    }
    clients = [
        card(name, root if entry.cluster is None else clusters[entry.cluster], entry.leaf)
        for name, entry in sorted(manifest.clients.items())
    ]
    return [root, *clusters.values(), *clients]
