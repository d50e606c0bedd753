"""The public Python API; every command of `silva` is a thin layer over a call here.

forest = silva.tune(TuneConfig(...), "forest")
forest = silva.Forest.load("forest")
forest.predict("c-17", ["picture.png"])
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError

from silva import prediction
from silva.adapters import forest as storage
from silva.adapters.joining import Joined, join
from silva.adapters.module_map import Layout
from silva.adapters.peft_exchange import (
    known_tier,
    leaf_change,
    tier_change,
    write_path,
    write_tier,
)
from silva.adapters.probe_file import decode_probed, encode_probed
from silva.errors import RunError
from silva.federation import tune as tuning
from silva.federation.addition import (
    Added,
    add_client,
    open_for,
    probe_client,
    settings_for,
)
from silva.federation.material import Material, image_material
from silva.federation.opening import text_of
from silva.federation.run import Progress
from silva.federation.tune import TuneConfig
from silva.prediction import Prediction

Watcher = Callable[[Progress], None]


def _ignore(progress: Progress) -> None:
    pass


class Forest(storage.Forest):
    """A forest of adapters: `silva.adapters.forest.Forest`, and what needs its model."""

    def predict(
        self,
        client: str,
        images: Sequence[str | Path],
        *,
        top: int = 5,
        unknown_client: str = "error",
        backbone: str = "",
        on_progress: Watcher = _ignore,
    ) -> list[Prediction]:
        """The `top` classes of each image file, by the model of one client.

        client: a client's name, "cluster-2" or "root". `unknown_client="root"` answers for unknown
        names with the root. `backbone` overrides where the base model lies; its digest must match.
        Raises UnknownClientError, ForestError, ModelError or DataError.
        """
        paths = [Path(image) for image in images]

        def after(answered: int) -> None:
            on_progress(Progress("predict", answered, len(paths)))

        return prediction.predict(self, client, paths, top, unknown_client, backbone, after)

    def add(
        self,
        client: str,
        data: str,
        *,
        split: str = "",
        labels: str = "",
        leaf_epochs: int = 0,
        backbone: str = "",
        settings: Mapping[str, Any] | None = None,
        on_progress: Watcher = _ignore,
    ) -> Added:
        """Add a client that took no part in training: probe, route and, if asked, tune a leaf.

        The settings are those of the run that grew the forest, defaults where it does not say;
        `settings` override them by name, e.g. {"federation.local.lr": 1e-3}.
        """
        config = settings_for(self, settings or {})
        return add_client(
            self,
            client,
            self._material(data, split, labels, backbone),
            config,
            leaf_epochs,
            on_progress,
        )

    def make_probe(
        self,
        client: str,
        data: str,
        *,
        split: str = "",
        labels: str = "",
        backbone: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> bytes:
        """A file by which a client can join this forest where its data are not.

        It holds the directions in which the data change the model, and how many examples there are.
        """
        material = self._material(data, split, labels, backbone)
        probed = probe_client(self, client, material, settings_for(self, settings or {}))
        return encode_probed(probed, self.manifest)

    def join(self, client: str, probe: bytes) -> Joined:
        """Route a client by the file that `make_probe` made, and commit it without a leaf."""
        return join(self, client, decode_probed(probe, self.manifest, "the probe"))

    def export_peft(
        self,
        folder: str | Path,
        *,
        client: str = "",
        tier: str = "",
        stack: bool = False,
        transformers: int = 5,
    ) -> tuple[str, ...]:
        """Write a client's path, or one tier, as a PEFT directory; the names of what was written.

        stack: a directory for each tier of the path. transformers: whose module names, 4 or 5.
        Raises UnknownClientError, ConfigError or ForestError.
        """
        layout: Layout = "hf5" if transformers == 5 else "hf4"
        if client or stack:
            name = client or known_tier(self, tier)
            return write_path(self, name, Path(folder), stack=stack, layout=layout)
        write_tier(self, tier, Path(folder), layout=layout)
        return (tier,)

    def import_peft(
        self, folder: str | Path, *, client: str = "", tier: str = "", cluster: str = ""
    ) -> Self:
        """Commit a PEFT directory as a client's leaf (below `cluster`), or as a shared tier.

        The forest's new version. Raises ConfigError or ForestError; then nothing is committed.
        """
        if client:
            change = leaf_change(self, Path(folder), client, cluster)
        else:
            change = tier_change(self, Path(folder), tier)
        return self.commit(change, parent=self.version)

    def _material(self, data: str, split: str, labels: str, backbone: str) -> Material:
        """A client's data with the model of the forest."""
        if self.manifest.classes is None:
            return text_of(self, data, split=split, labels=labels, backbone=backbone)
        base = prediction.backbone_of(self, backbone)
        return image_material(base, open_for(self, data, split, labels))


def tune(config: TuneConfig, out: str | Path, on_progress: Watcher = _ignore) -> Forest:
    """Grow a forest at `out`; see `silva.federation.tune.tune`.

    Raises RunError when the disk refuses. What was written before there is something to resume is
    removed again.
    """
    place = _place(out)
    run = tuning.run_folder(place)
    with _disk(place):
        there = run.exists()
        try:
            tuning.tune(config, place, on_progress)
        finally:
            if not there and not (run / "state.json").exists():
                shutil.rmtree(run, ignore_errors=True)
    return Forest.load(place)


def resume(out: str | Path, on_progress: Watcher = _ignore) -> Forest:
    """Go on with the unfinished run beside `out`; see `silva.federation.tune.resume`."""
    place = _place(out)
    with _disk(place):
        tuning.resume(place, on_progress)
    return Forest.load(place)


def _place(out: str | Path) -> Path:
    """`out` as a path that ends in a name, which the run's folder beside it needs."""
    path = Path(out)
    path = path.resolve() if path.name in ("", "..") else path
    if not path.name:
        raise RunError("is no place for a forest", where=path, remedy="name a folder with --out")
    return path


@contextmanager
def _disk(place: Path) -> Iterator[None]:
    """A disk that is full, read-only or has no such place is the user's to mend: RunError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        reason = getattr(error, "strerror", None) or str(error)[:200]
        raise RunError(
            f"cannot be read or written: {reason}",
            where=getattr(error, "filename", None) or place,
            remedy="free space, mend the permissions or choose another --out; "
            "an unfinished run goes on with --resume",
        ) from error


__all__ = ["Added", "Forest", "Prediction", "Progress", "TuneConfig", "resume", "tune"]
