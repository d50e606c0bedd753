"""A folder of texts as tokens: sections, a tokenizer of their own, and what is held out.

A text is cut into sections at the ends of paragraphs. Whether a section is held out depends on its
content alone, so another order or number of files moves nothing from one side to the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from silva.errors import DataError
from silva.pretraining.language.config import BEGIN, END

SECTION_CHARACTERS = 8192
LARGEST_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Corpus:
    """Token ids int64, sections one after the other, each between its two special tokens."""

    train: Tensor
    held_out: tuple[Tensor, ...]
    """A tensor a section."""
    held_out_bytes: int
    """UTF-8 bytes of the held-out sections."""
    tokenizer: Tokenizer


def sections(folder: Path) -> Iterator[str]:
    """The sections of all .txt files below `folder`, in the order of their paths.

    Raises DataError for no files, and for a file that is not UTF-8.
    """
    files = sorted(path for path in folder.rglob("*.txt") if path.is_file())
    if not files:
        raise DataError("no .txt files", where=folder, remedy="give a folder of UTF-8 texts")
    for path in files:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise DataError("larger than 1 GiB", where=path, remedy="cut it into several files")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"is not UTF-8 ({error.reason})", where=path) from None
        yield from _cut(text)


def _cut(text: str) -> Iterator[str]:
    """Whole paragraphs together, up to SECTION_CHARACTERS; a longer paragraph is cut."""
    section = ""
    for paragraph in text.split("\n\n"):
        for start in range(0, len(paragraph), SECTION_CHARACTERS):
            piece = paragraph[start : start + SECTION_CHARACTERS]
            if section and len(section) + len(piece) > SECTION_CHARACTERS:
                yield section
                section = ""
            section += ("\n\n" if section else "") + piece
    if section.strip():
        yield section


def is_held_out(section: str, share: float) -> bool:
    """Whether a section is kept apart; `share` of all sections are."""
    digest = hashlib.sha256(section.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE on `texts`: any text can be written, and comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)]
    )
    return tokenizer


def read_corpus(folder: Path, vocab_size: int, held_out: float) -> Corpus:
    """The texts of `folder` as tokens. Raises DataError where they are too few for both sides."""
    sides: tuple[list[str], list[str]] = ([], [])
    for section in sections(folder):
        sides[is_held_out(section, held_out)].append(section)
    if not all(sides):
        raise DataError(
            f"{len(sides[0])} sections to train on and {len(sides[1])} held out",
            where=folder,
            remedy="give more text, or another share of held_out",
        )
    tokenizer = train_tokenizer(sides[0], vocab_size)
    if tokenizer.get_vocab_size() < vocab_size:
        raise DataError(
            f"the texts give {tokenizer.get_vocab_size()} entries of the tokenizer",
            where=folder,
            remedy=f"give more text, or set vocab_size (now {vocab_size}) to less",
        )
    train, kept = (_encode(tokenizer, texts) for texts in sides)
    sizes = sum(len(text.encode()) for text in sides[1])
    return Corpus(torch.cat(train), tuple(kept), sizes, tokenizer)


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Tensor]:
    end = tokenizer.token_to_id(END)
    return [torch.tensor([*found.ids, end]) for found in tokenizer.encode_batch_fast(texts)]
