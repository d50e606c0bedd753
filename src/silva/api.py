"""The public Python API; every command of `silva` is a thin layer over a call here.

forest = silva.tune(TuneConfig(...), "forest")
forest = silva.Forest.load("forest")
forest.predict("c-17", ["picture.png"])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from silva import prediction
from silva.adapters import forest as storage
from silva.federation import tune as tuning
from silva.federation.addition import Added, add_client, open_for
from silva.federation.config import FederationConfig
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
    ) -> list[Prediction]:
        """The `top` classes of each image file, by the model of one client.

        client: a client's name, "cluster-2" or "root". `unknown_client="root"` answers for unknown
        names with the root. `backbone` overrides where the base model lies; its digest must match.
        Raises UnknownClientError, ForestError, ModelError or DataError.
        """
        paths = [Path(image) for image in images]
        return prediction.predict(self, client, paths, top, unknown_client, backbone)

    def add(
        self,
        client: str,
        data: str,
        *,
        split: str = "",
        labels: str = "",
        leaf_epochs: int = 0,
        backbone: str = "",
    ) -> Added:
        """Add a client that took no part in training: probe, route and, if asked, tune a leaf."""
        return add_client(
            self,
            client,
            prediction.backbone_of(self, backbone),
            open_for(self, data, split, labels),
            FederationConfig(),
            leaf_epochs,
        )


def tune(config: TuneConfig, out: str | Path, on_progress: Watcher = _ignore) -> Forest:
    """Grow a forest at `out`; see `silva.federation.tune.tune`."""
    tuning.tune(config, Path(out), on_progress)
    return Forest.load(out)  # type: ignore[return-value]


def resume(out: str | Path, on_progress: Watcher = _ignore) -> Forest:
    """Go on with the unfinished run beside `out`; see `silva.federation.tune.resume`."""
    tuning.resume(Path(out), on_progress)
    return Forest.load(out)  # type: ignore[return-value]


__all__ = ["Added", "Forest", "Prediction", "Progress", "TuneConfig", "resume", "tune"]
