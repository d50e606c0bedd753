"""What a server asks of the federation for clients who send their examples, images or texts.

A server knows these as `Prober` and `LeafTuner` (`silva.serving.newcomers`), and is given them by
whoever starts it. All train with the settings of the run that grew the forest, as `silva forest add`
does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from silva.adapters.forest import Forest
from silva.adapters.probe_file import Probed
from silva.adapters.tiers import Tier
from silva.data.labelled import LabelledFiles
from silva.data.sent_texts import SentTexts
from silva.errors import ForestError
from silva.federation.addition import probe_client, settings_for, tune_leaf
from silva.federation.material import Material, image_material
from silva.federation.opening import ModelTokens, open_language_of, sent_material, window_of
from silva.federation.run import Progress
from silva.models.backbone import Backbone
from silva.models.language_config import read_language_config
from silva.models.registry import load_backbone
from silva.models.tokenizer import load_tokenizer


@dataclass(frozen=True)
class ImageProber:
    """Probes clients on the model that is served. Any thread may ask."""

    backbone: Backbone

    def rows(self, forest: Forest, examples: LabelledFiles) -> int:
        """See `Prober`. Images are read when they are trained on."""
        return len(examples.dataset(forest.class_names))

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
        return _tuned(forest, client, _material(backbone, forest, examples), leave)


@dataclass(frozen=True)
class TextProber:
    """Probes clients on the model of a directory, which every probe loads: its weights are mapped."""

    folder: Path

    def rows(self, forest: Forest, examples: SentTexts) -> int:
        """See `Prober`. For this the model's tokens are enough."""
        tokens = ModelTokens(load_tokenizer(self.folder), read_language_config(self.folder))
        return len(examples.dataset(tokens, window_of(forest)))

    def probe(self, forest: Forest, client: str, examples: SentTexts) -> Probed:
        """See `Prober`."""
        material = _texts(self.folder, forest, examples)
        return probe_client(forest, client, material, settings_for(forest, {}))


@dataclass(frozen=True)
class TextTuner:
    """Tunes leaves on the model of a directory."""

    folder: Path

    def tune(
        self,
        forest: Forest,
        client: str,
        examples: SentTexts,
        leave: Callable[[int, int], None],
    ) -> Tier:
        """See `LeafTuner`. It has as many passes as the run gave clients that it had not seen."""
        return _tuned(forest, client, _texts(self.folder, forest, examples), leave)


def _tuned(
    forest: Forest, client: str, material: Material, leave: Callable[[int, int], None]
) -> Tier:
    config = settings_for(forest, {})
    passes = config.unseen_epochs

    def after(progress: Progress) -> None:
        if progress.done < passes:
            leave(progress.done, passes)

    leave(0, passes)
    return tune_leaf(forest, client, material, config, passes, after)


def _material(backbone: Backbone, forest: Forest, examples: LabelledFiles) -> Material:
    return image_material(backbone, examples.dataset(forest.class_names))


def _texts(folder: Path, forest: Forest, examples: SentTexts) -> Material:
    base, model, tokens = open_language_of(forest, str(folder))
    return sent_material(base, model, tokens, examples, window_of(forest))
