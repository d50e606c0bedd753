from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from chat_cases import SMOLLM2
from tokenizer_cases import byte_fallback, byte_level

from silva.errors import ModelError
from silva.models.gguf_tokenizer import tokenizer_files
from silva.models.tokenizer import Tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    [
        "",
        "  two  spaces",
        "It's 1234 o'clock\n\n\tNOW",
        "<|im_start|>user\nhi<|im_end|>",
        "<s>a</s>",
    ]
)


def metadata(kind: str, **changes: Any) -> dict[str, Any]:
    """What a GGUF file holds of one of the small tokenizers; `changes` of tokenizer.ggml.*."""
    made = byte_fallback() if kind == "llama" else byte_level()
    raw = json.loads(made.to_str())
    ids = made.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    types = {t["content"]: 3 if t["special"] else 4 for t in raw["added_tokens"]}
    found: dict[str, Any] = {
        "model": kind,
        "tokens": tokens,
        "token_type": np.array([types.get(t, 1) for t in tokens], np.int32),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    if kind == "llama":
        found["scores"] = -np.arange(len(tokens), dtype=np.float32)
    else:
        found["merges"] = [" ".join(pair) for pair in raw["model"]["merges"]]
        found["pre"] = "smollm"
    found.update(changes)
    return {f"tokenizer.ggml.{k}": v for k, v in found.items() if v is not ...}


def tokenizer_of(meta: dict[str, Any]) -> Tokenizer:
    return Tokenizer(tokenizer_files(meta, "x.gguf")["tokenizer.json"].encode())


BYTE_LEVEL, SENTENCEPIECE = byte_level(), byte_fallback()
FROM_GGUF = {kind: tokenizer_of(metadata(kind)) for kind in ("gpt2", "llama")}


@given(TEXT)
def test_byte_level_is_the_tokenizer_it_came_from(text: str) -> None:
    assert FROM_GGUF["gpt2"].encode(text, add_special=True) == BYTE_LEVEL.encode(text).ids


@given(TEXT)
def test_sentencepiece_is_the_tokenizer_it_came_from(text: str) -> None:
    found = FROM_GGUF["llama"].encode(text, add_special=True)
    assert found == SENTENCEPIECE.encode(text).ids
    assert FROM_GGUF["llama"].decode(found, skip_special=True) == SENTENCEPIECE.decode(found)


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "default"])
def test_texts_are_cut_as_by_transformers(pre: str) -> None:
    pytest.importorskip("transformers")
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    meta = metadata("gpt2", pre=pre, add_bos_token=False)
    theirs, _ = convert_gguf_tokenizer(
        "llama",
        {
            "tokenizer_type": "gpt2",
            "pre_tokenizer_type": pre,
            "tokens": meta["tokenizer.ggml.tokens"],
            "merges": meta["tokenizer.ggml.merges"],
            "token_type": meta["tokenizer.ggml.token_type"].tolist(),
        },
    )
    ours = tokenizer_of(meta)
    for text in ("It's 12345 DON'T café", "a  b\n\n c\t\td   ", "x=1;//++--\r\ny", "naïve 你好"):
        assert ours.encode(text, add_special=True) == theirs.encode(text).ids


def test_begin_tokens() -> None:
    assert tokenizer_of(metadata("gpt2")).encode("a", add_special=True)[0] != 1
    assert tokenizer_of(metadata("gpt2", add_bos_token=True)).encode("a", add_special=True)[0] == 1
    assert tokenizer_of(metadata("gpt2", pre="llama-bpe")).encode("a", add_special=True)[0] == 1
    assert tokenizer_of(metadata("llama")).encode("a", add_special=True)[0] == 1
    assert (
        tokenizer_of(metadata("llama", add_bos_token=False)).encode("a", add_special=True)[0] != 1
    )


def test_no_space_before_the_first_word() -> None:
    ours = tokenizer_of(metadata("llama", add_space_prefix=False))
    ids = ours.encode(" a", add_special=False)
    assert ours.decode(ids, skip_special=True) == " a"
    assert ours.encode("a", add_special=False) != ids


def test_names_and_template() -> None:
    meta = {**metadata("gpt2", padding_token_id=2), "tokenizer.chat_template": SMOLLM2}
    files = tokenizer_files(meta, "x")
    config = json.loads(files["tokenizer_config.json"])
    assert config["bos_token"] == "<|im_start|>"
    assert config["pad_token"] == config["eos_token"] == "<|im_end|>"
    assert files["chat_template.jinja"] == SMOLLM2
    assert "chat_template.jinja" not in tokenizer_files(metadata("gpt2"), "x")


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("gpt2", {"model": "bert"}, "model"),
        ("gpt2", {"model": 3}, "model"),
        ("gpt2", {"model": np.zeros(2)}, "model"),
        ("gpt2", {"tokens": ...}, "tokens"),
        ("gpt2", {"tokens": [1, 2]}, "tokens"),
        ("gpt2", {"pre": "new-cut"}, "pre"),
        ("gpt2", {"pre": ["smollm"]}, "pre"),
        ("gpt2", {"merges": ...}, "merges"),
        ("gpt2", {"merges": ["a b c"]}, "merges"),
        ("gpt2", {"merges": [5]}, "merges"),
        ("gpt2", {"token_type": np.zeros(3)}, "token_type"),
        ("gpt2", {"token_type": np.full(BYTE_LEVEL.get_vocab_size(), np.inf)}, "token_type"),
        ("llama", {"scores": ...}, "scores"),
        ("llama", {"scores": np.zeros(3)}, "scores"),
    ],
)
def test_a_vocabulary_that_silva_does_not_know(
    kind: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match=rf"x\.gguf: tokenizer\.ggml\.{named}"):
        tokenizer_files(metadata(kind, **changes), "x.gguf")


def test_odd_values_of_the_small_settings_are_as_if_they_were_not_there() -> None:
    odd = {"bos_token_id": 10**9, "eos_token_id": "x", "add_bos_token": 7, "token_type": ...}
    for kind in ("gpt2", "llama"):
        tokenizer_of(metadata(kind, **odd))
