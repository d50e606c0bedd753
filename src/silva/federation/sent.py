"""What a server of images asks of the federation for clients who send their examples.

A server knows these as `Prober` and `LeafTuner` (`silva.serving.newcomers`), and is given them by
whoever starts it. Both train with the settings of the run that grew the forest, as `silva forest add`
does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from silva.adapters.forest import Forest
from silva.adapters.probe_file import Probed
from silva.adapters.tiers import Tier
from silva.data.labelled import LabelledFiles
from silva.errors import ForestError
from silva.federation.addition import probe_client, settings_for, tune_leaf
from silva.federation.material import Material, image_material
from silva.federation.run import Progress
from silva.models.backbone import Backbone
from silva.models.registry import load_backbone


@dataclass(frozen=True)
class ImageProber:
    """Probes clients on the model that is served. Any thread may ask."""

    backbone: Backbone

    def probe(self, forest: Forest, client: str, examples: LabelledFiles) -> Probed:
        """See `Prober`."""
        material = _material(self.backbone, forest, examples)
        return probe_client(forest, client, material, settings_for(forest, {}))


@dataclass(frozen=True)
class ImageTuner:
    """Tunes leaves in a process that has to load the model: `model` is its name or path."""

    model: str

    def tune(
        self,
        forest: Forest,
        client: str,
        examples: LabelledFiles,
        leave: Callable[[int, int], None],
    ) -> Tier:
        """See `LeafTuner`. It has as many passes as the run gave clients that it had not seen."""
        backbone = load_backbone(self.model)
        if backbone.digest != forest.base.digest:
            raise ForestError(f"was grown on other weights than {backbone.id}", where=forest.folder)
        config = settings_for(forest, {})
        passes = config.unseen_epochs

        def after(progress: Progress) -> None:
            if progress.done < passes:
                leave(progress.done, passes)

        leave(0, passes)
        return tune_leaf(
            forest, client, _material(backbone, forest, examples), config, passes, after
        )


def _material(backbone: Backbone, forest: Forest, examples: LabelledFiles) -> Material:
    return image_material(backbone, examples.dataset(forest.class_names))
