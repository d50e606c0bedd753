"""What `silva demo` shows of a served forest: a newcomer, before and after it joins."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from silva.cli.admin import ask
from silva.cli.demo_newcomer import NAME, STYLE, TEST, TRAIN, Newcomer, make_newcomer
from silva.cli.demo_server import PATIENCE_S, Served

if TYPE_CHECKING:
    from silva.api import Forest, TuneConfig


def meet(forest: Forest, config: TuneConfig, server: Served) -> None:
    """One picture asked as several clients, before and after one of them joins."""
    from silva.models.registry import load_backbone

    print(
        f"The forest is served at {server.url}; {NAME} comes, whom it does not know: its camera is"
    )
    print(f"{STYLE}, as that of a group is. One of its pictures, asked as several clients:")
    side = load_backbone(config.backbone).model.config.image_size
    with tempfile.TemporaryDirectory(prefix="silva-demo-") as folder:
        newcomer = make_newcomer(
            forest.folder, config.data.path, side, Path(folder) / "pictures.npz", config.seed
        )
        picture = newcomer.pictures[:1]
        print(f"  {'it is':<14} {newcomer.classes[0]}")
        for client in _of_each_cluster(forest):
            _answer(server, client, picture, "")
        _answer(server, NAME, picture, "  (the root's answer)")
        before = _right(server, newcomer)
        began = time.perf_counter()
        cluster = _join(forest, server, newcomer)
        seconds = time.perf_counter() - began
        print(f"{NAME} joins with {TRAIN} pictures: {cluster}, live after {seconds:.1f} s")
        _answer(server, NAME, picture, f"  (root + {cluster})")
    after = _right(server, newcomer)
    print(f"right of {TEST} other pictures of its own: {before} before, {after} after\n")


def _of_each_cluster(forest: Forest, most: int = 3) -> list[str]:
    """The first client with a leaf of each of the first clusters."""
    found: dict[str | None, str] = {}
    for name in forest.clients:
        entry = forest.client(name)
        if entry.leaf is not None:
            found.setdefault(entry.cluster, name)
    return [found[cluster] for cluster in sorted(found, key=str)][:most]


def _answer(server: Served, client: str, picture: tuple[bytes, ...], note: str) -> None:
    (best,) = server.classify(client, picture)
    print(f"  {'as ' + client:<14} {best['label']:<12} {100 * best['probability']:3.0f} %{note}")


def _right(server: Served, newcomer: Newcomer) -> int:
    """How many of the newcomer's test pictures are answered with their class."""
    answers = server.classify(NAME, newcomer.pictures)
    return sum(a["label"] == c for a, c in zip(answers, newcomer.classes, strict=True))


def _join(forest: Forest, server: Served, newcomer: Newcomer) -> str:
    """Make the newcomer's probe where its pictures are, and send it: the cluster it is put in."""
    told = ask(
        server.url,
        "",
        "forest/clients",
        timeout_s=PATIENCE_S,
        needs=("cluster",),
        content=forest.make_probe(NAME, str(newcomer.data)),
        headers={"content-type": "application/octet-stream"},
        params={"client": NAME},
    )
    return str(told["cluster"])
