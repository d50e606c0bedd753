"""From the names in the settings to what a run works on: images or texts, as the model asks for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from silva.adapters.forest import Forest
from silva.adapters.manifest import BaseModel
from silva.data.sent_texts import SentTexts
from silva.data.text import Coder, TextDataset, read_texts
from silva.errors import ConfigError, DataError, ForestError, PromptError
from silva.federation.language import ClientTexts, LanguageModelling
from silva.federation.material import TEXT, Material
from silva.models.attention_parts import Adaptable, adaptable
from silva.models.fetch import KNOWN
from silva.models.language import LanguageConfig
from silva.models.language_loader import load_language_model
from silva.models.library import Library
from silva.models.tokenizer import Tokenizer, load_tokenizer

TEST_SHARE = 0.2
"""Of every folder's windows, where neither the tree nor `--split` says which are for testing."""


class ModelTokens:
    """A model's tokens for texts (`silva.data.text.Coder`)."""

    def __init__(self, tokenizer: Tokenizer, config: LanguageConfig) -> None:
        self._tokenizer, self._rows = tokenizer, config.vocab_size
        self.end: Sequence[int] = config.eos_ids[:1]

    def encode(self, text: str) -> Sequence[int]:
        tokens = self._tokenizer.encode(text, add_special=False)
        if max(tokens, default=0) >= self._rows:
            what = self._tokenizer.token_bytes(max(tokens)).decode(errors="replace")
            raise PromptError(f"the model does not know the token {what!r}")
        return tokens

    def size(self, token: int) -> int:
        if self._tokenizer.is_special(token):
            return 0
        return len(self._tokenizer.token_bytes(token))


def open_language(name_or_path: str) -> tuple[BaseModel, Adaptable, ModelTokens]:
    """A language model by name or path, in float32, with its tokens. Raises ModelError.

    A known name is fetched where it is not here yet.
    """
    folder = Library().resolve(name_or_path)
    known = name_or_path in KNOWN
    name = name_or_path if known else str(Path(name_or_path).expanduser().resolve())
    model = adaptable(load_language_model(folder, name=name))
    return BaseModel(name, model.digest), model, ModelTokens(load_tokenizer(folder), model.config)


def text_material(
    base: BaseModel,
    model: Adaptable,
    tokens: ModelTokens,
    path: str,
    window: int,
    *,
    split: str = "",
    labels: str = "",
    share: float | None = TEST_SHARE,
) -> Material:
    """A language model and texts in windows of `window` tokens; see `silva.data.text.read_texts`."""
    _check_window(window, model)
    place = Path(path).expanduser()
    if not path or not place.exists():
        raise DataError(
            "no such file or folder" if path else "no data named",
            where=path,
            remedy="give a folder with one folder of text files a client",
        )
    dataset: TextDataset = read_texts(
        place, tokens, window, split=split, labels=labels, share=share
    )
    return _material(base, model, dataset, window)


def sent_material(
    base: BaseModel, model: Adaptable, tokens: Coder, texts: SentTexts, window: int
) -> Material:
    """A language model and the texts that a client sent; see `SentTexts.dataset`."""
    _check_window(window, model)
    return _material(base, model, texts.dataset(tokens, window), window)


def _check_window(window: int, model: Adaptable) -> None:
    if window > model.config.context:
        raise ConfigError(
            f"{window} tokens are more than the model's context of {model.config.context}",
            where="data.window",
        )


def _material(base: BaseModel, model: Adaptable, dataset: TextDataset, window: int) -> Material:
    return Material(
        base=base,
        task=LanguageModelling(model, window),
        dataset=dataset,
        classes=None,
        clients=partial(ClientTexts, dataset),
        settings={TEXT: {"window": window}},
    )


def text_of(forest: Forest, data: str, *, split: str, labels: str, backbone: str) -> Material:
    """The model that a forest of texts was grown on, and one client's texts, cut as its were.

    Raises ForestError when the weights differ.
    """
    base, model, tokens = open_language_of(forest, backbone or forest.base.id)
    window = window_of(forest)
    return text_material(base, model, tokens, data, window, split=split, labels=labels, share=None)


def open_language_of(forest: Forest, name_or_path: str) -> tuple[BaseModel, Adaptable, ModelTokens]:
    """The language model that a forest was grown on. Raises ForestError when the weights differ."""
    base, model, tokens = open_language(name_or_path)
    if base.digest != forest.base.digest:
        raise ForestError(
            f"was grown on other weights than {base.id}",
            where=forest.folder,
            remedy="give the base model of the forest with --backbone",
        )
    return base, model, tokens


def window_of(forest: Forest) -> int:
    """Tokens of the windows that the texts of a forest's clients were cut into. Raises ForestError."""
    kept = (forest.manifest.settings or {}).get(TEXT)
    window = kept.get("window") if isinstance(kept, dict) else None
    if not isinstance(window, int) or window < 1:
        raise ForestError("does not say how its texts were cut into windows", where=forest.folder)
    return window
