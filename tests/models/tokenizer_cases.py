"""Small tokenizers of both kinds that language models use, and the directories they come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

TEXTS = [
    "Once upon a time there was a little girl named Lily.",
    "The big red ball was too high. It's 3.14 metres, or 1234 cm!",
    "naïve café, Größe, 你好世界, привет мир, 👩‍👩‍👧 and more",
    "def f(x):\n    return x + 1\n\n\ttabs  and   spaces",
] * 3
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level() -> Tokenizer:
    """As SmolLM2's: bytes, digits one by one, three special tokens, one added that is not."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("<tool ▁ call>", special=False)])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama 2's: words begin with ▁, characters that are not in the vocabulary are bytes."""
    trained = Tokenizer(BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    trainer = BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *bytes_],
        show_progress=False,
    )
    trained.train_from_iterator([t for t in TEXTS if t.isascii()], trainer)
    raw = json.loads(trained.to_str())
    raw["model"].update(byte_fallback=True, fuse_unk=True)
    raw["added_tokens"] = raw["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def metaspace() -> Tokenizer:
    """As the one above, in the form that newer converters write."""
    tokenizer = byte_fallback()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


KINDS = {"byte-level": byte_level, "byte-fallback": byte_fallback, "metaspace": metaspace}


def content_of(tokenizer: Tokenizer, **changes: Any) -> bytes:
    """A `tokenizer.json`; `changes` replace its top-level fields."""
    return json.dumps({**json.loads(tokenizer.to_str()), **changes}).encode()


def save_tokenizer(folder: Path, tokenizer: Tokenizer, **config: Any) -> None:
    """`tokenizer.json` and `tokenizer_config.json` as transformers writes them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
