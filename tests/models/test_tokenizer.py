from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

sys.path.insert(0, str(Path(__file__).parent))

from tokenizer_cases import KINDS, SPECIAL, byte_level, content_of, metaspace, save_tokenizer

from silva.errors import ModelError, PromptError
from silva.models.tokenizer import Tokenizer, load_tokenizer, special_names

LIBRARY = {kind: make() for kind, make in KINDS.items()}
OURS = {kind: Tokenizer(content_of(library)) for kind, library in LIBRARY.items()}
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["", " ", "  two  spaces ", "Once upon", "你好 👩‍👩‍👧", "<|im_end|>\n<|im_start|>", "<s>a</s>"]
)
KIND = st.sampled_from(sorted(KINDS))


def ids_for(kind: str) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, OURS[kind].vocabulary - 1), max_size=30)


def in_pieces(ours: Tokenizer, ids: list[int], *, skip: bool) -> tuple[list[str], str]:
    decoder = ours.decoder(skip_special=skip, continuing=False)
    return [decoder.push(n) for n in ids], decoder.finish()


@given(KIND, TEXT, st.booleans())
def test_encoding_is_the_librarys(kind: str, text: str, special: bool) -> None:
    expected = LIBRARY[kind].encode(text, add_special_tokens=special).ids
    assert OURS[kind].encode(text, add_special=special) == expected


@settings(max_examples=300)
@given(st.data(), KIND, st.booleans())
def test_pieces_are_the_whole_and_never_half_a_character(
    data: st.DataObject, kind: str, skip: bool
) -> None:
    ours, ids = OURS[kind], data.draw(ids_for(kind))
    pieces, rest = in_pieces(ours, ids, skip=skip)
    whole = ours.decode(ids, skip_special=skip)
    assert "".join(pieces) + rest == whole
    kept = [n for n in ids if not (skip and ours.is_special(n))]
    raw = b"".join(map(ours.token_bytes, kept))
    assert whole.endswith(raw.decode(errors="replace").lstrip(" "))


@settings(max_examples=300)
@given(st.data(), st.booleans())
def test_any_bytes_decode_as_in_the_library(data: st.DataObject, skip: bool) -> None:
    ids = data.draw(ids_for("byte-level"))
    expected = LIBRARY["byte-level"].decode(ids, skip_special_tokens=skip)
    assert OURS["byte-level"].decode(ids, skip_special=skip) == expected


@given(KIND, TEXT, st.booleans())
def test_texts_decode_as_in_the_library(kind: str, text: str, special: bool) -> None:
    ids = LIBRARY[kind].encode(text, add_special_tokens=special).ids
    for skip in (True, False):
        expected = LIBRARY[kind].decode(ids, skip_special_tokens=skip)
        if kind == "metaspace":  # its decoder knows nothing of bytes
            expected = OURS[kind].decode(ids, skip_special=skip)
        assert OURS[kind].decode(ids, skip_special=skip) == expected
        pieces, rest = in_pieces(OURS[kind], ids, skip=skip)
        assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text
        assert "".join(pieces) + rest == expected


@given(TEXT)
def test_byte_level_texts_come_back(text: str) -> None:
    ours = OURS["byte-level"]
    assert ours.decode(ours.encode(text, add_special=False), skip_special=False) == text


def test_an_emoji_appears_with_its_last_byte() -> None:
    ours = OURS["byte-fallback"]
    ids = ours.encode("a👧b", add_special=False)
    pieces, rest = in_pieces(ours, ids, skip=True)
    assert [p for p in pieces if p] == ["a", "👧", "b"] and rest == ""
    pieces, rest = in_pieces(ours, ids[:-2], skip=True)
    assert "".join(pieces) == "a" and rest == "\ufffd"


def test_an_answer_keeps_the_space_before_its_first_word() -> None:
    ours = OURS["byte-fallback"]
    ids = ours.encode("big", add_special=False)
    answer = ours.decoder(skip_special=True)
    assert "".join(map(answer.push, ids)) + answer.finish() == " big"
    assert ours.decode(ids, skip_special=True) == "big"
    plain = Tokenizer(content_of(metaspace()))
    assert plain.decode(plain.encode("big", add_special=False), skip_special=True) == "big"


def test_special_tokens_steer_and_added_ones_are_text() -> None:
    ours = OURS["byte-level"]
    ids = ours.encode("<|im_start|>hi<tool ▁ call><|im_end|>", add_special=False)
    assert ours.decode(ids, skip_special=True) == "hi<tool ▁ call>"
    assert ours.is_special(ids[0]) and ids[0] == ours.token_id(SPECIAL[1])
    assert ours.token_bytes(ids[-1]) == b"<|im_end|>"
    assert ours.token_bytes(10**9) == b"" and ours.token_id("nothing") is None


def test_what_a_file_says_of_lengths_is_ignored() -> None:
    library = byte_level()
    library.enable_truncation(2)
    library.enable_padding(length=50)
    ours = Tokenizer(content_of(library))
    text = "Once upon a time there was"
    assert ours.encode(text, add_special=True) == OURS["byte-level"].encode(text, add_special=True)


def test_texts_that_cannot_be_are_the_prompts_mistake() -> None:
    with pytest.raises(PromptError, match="lone surrogate"):
        OURS["byte-level"].encode("\ud800", add_special=True)
    with pytest.raises(PromptError, match="characters, more than"):
        OURS["byte-level"].encode("a" * ((8 << 20) + 1), add_special=True)


def changed(path: list[Any], value: Any) -> bytes:
    """The byte-level tokenizer's file with one nested field changed."""
    raw = json.loads(byte_level().to_str())
    at = raw
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return json.dumps(raw).encode()


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 100}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "JSON"),
        (b"[]", "model"),
        (b"{}", "model"),
        (b"[" * 100_000, "JSON"),
        (changed(["model", "type"], "WordPiece"), "model"),
        (changed(["model", "dropout"], 0.5), "dropout"),
        (changed(["model", "merges"], ["x"]), "no tokenizer"),
        (changed(["model", "vocab"], {"a": -1}), "no tokenizer"),
        (changed(["decoder"], None), "decoder"),
        (changed(["decoder"], {"type": "WordPiece"}), "decoder"),
        (changed(["decoder"], {"type": "Sequence", "decoders": [REPLACE]}), "decoder"),
        (changed(["normalizer"], {"type": "Sequence", "normalizers": [REPLACE] * 5}), "grow"),
        (
            changed(["pre_tokenizer"], {"type": "Split", "pattern": {"Regex": "a" * 9999}}),
            "pattern",
        ),
        (changed(["pre_tokenizer"], {"type": "Split", "pattern": {"Regex": "("}}), "no tokenizer"),
    ],
)
def test_a_hostile_file_is_refused(content: bytes, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        Tokenizer(content)


SMALL = byte_level()
SMALL_TEXT = SMALL.to_str(pretty=True).encode()


@settings(max_examples=150)
@given(st.data())
def test_any_change_of_a_file_is_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(SMALL_TEXT)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 2500))
        content[at] = data.draw(st.sampled_from(b'0129aZ{}[]",:-\\ ') | st.integers(0, 255))
    try:
        tokenizer = Tokenizer(bytes(content))
    except ModelError:
        return
    try:
        ids = tokenizer.encode("Once upon <|im_end|> 12 你", add_special=True)
    except PromptError:
        return
    assert all(0 <= n < tokenizer.vocabulary for n in ids)
    tokenizer.decode(ids, skip_special=True)


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    names = {"eos_token": "<|im_end|>", "bos_token": {"content": "<|im_start|>"}, "unk_token": None}
    save_tokenizer(tmp_path, byte_level(), **names)
    assert (
        load_tokenizer(tmp_path).encode("a1", add_special=True)
        == LIBRARY["byte-level"].encode("a1").ids
    )
    assert special_names(tmp_path) == {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "x", "eos_token": "y"}')
    assert special_names(tmp_path)["pad_token"] == "x"
    assert special_names(tmp_path)["eos_token"] == "<|im_end|>"


def test_stories260k_reads_as_in_the_library(shared_data: Path) -> None:
    folder = shared_data / "stories260k"
    if not folder.is_dir():
        pytest.skip("needs stories260k in ../shared/data")
    ours, library = load_tokenizer(folder), Library.from_file(str(folder / "tokenizer.json"))
    for text in ("Once upon a time", "  two 你好 👧\n", ""):
        ids = ours.encode(text, add_special=True)
        assert ids == library.encode(text).ids
        assert ours.decode(ids, skip_special=True) == library.decode(ids)
