from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.errors import DataError
from silva.pretraining.language.config import BEGIN, END
from silva.pretraining.language.corpus import (
    SECTION_CHARACTERS,
    is_held_out,
    read_corpus,
    sections,
    train_tokenizer,
)


def test_sections_are_whole_paragraphs_and_lose_nothing(texts: Path) -> None:
    found = list(sections(texts))
    assert all(0 < len(s) <= SECTION_CHARACTERS + 2 for s in found)
    whole = "\n\n".join((texts / f"{name}.txt").read_text() for name in ("a", "b"))
    assert "\n\n".join(found) == whole


def test_a_long_paragraph_is_cut(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("x" * (2 * SECTION_CHARACTERS + 5))
    assert [len(s) for s in sections(tmp_path)] == [SECTION_CHARACTERS, SECTION_CHARACTERS, 5]


def test_what_is_held_out_depends_on_the_content_alone() -> None:
    made = [f"section {n}" for n in range(2000)]
    kept = [s for s in made if is_held_out(s, 0.1)]
    assert 150 < len(kept) < 250
    assert [s for s in reversed(made) if is_held_out(s, 0.1)] == kept[::-1]


def test_tokens_lie_between_begin_and_end(texts: Path) -> None:
    corpus = read_corpus(texts, 300, 0.2)
    begin, end = (corpus.tokenizer.token_to_id(name) for name in (BEGIN, END))
    assert (begin, end) == (0, 1)
    for section in corpus.held_out:
        assert (int(section[0]), int(section[-1])) == (begin, end)
        assert not {begin, end} & set(section[1:-1].tolist())
    text = [corpus.tokenizer.decode(s.tolist()) for s in corpus.held_out]
    assert sum(len(t.encode()) for t in text) == corpus.held_out_bytes
    assert not set(text) & {s for s in sections(texts) if not is_held_out(s, 0.2)}
    assert int((corpus.train == begin).sum()) + len(text) == len(list(sections(texts)))


TOKENIZER = train_tokenizer(["the forest grows", "a leaf falls"], 280)


@given(st.text(max_size=200))
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


def test_mistakes(tmp_path: Path, texts: Path) -> None:
    with pytest.raises(DataError, match=r"no \.txt files"):
        list(sections(tmp_path))
    with pytest.raises(DataError, match="entries of the tokenizer"):
        read_corpus(texts, 50_000, 0.2)
    (tmp_path / "one.txt").write_text("short")
    with pytest.raises(DataError, match="held out"):
        read_corpus(tmp_path, 300, 0.2)
    (tmp_path / "two.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="is not UTF-8"):
        list(sections(tmp_path))
