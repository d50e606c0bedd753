"""A GGUF file's vocabulary as the files of a Hugging Face tokenizer.

GGUF keeps tokens, merges or scores, and the name of a way to cut texts; the rest is convention.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from silva.errors import ModelError
from silva.models.fields import short
from silva.models.tokenizer import SPECIAL_NAMES

MOST_TOKENS = 1 << 22
_UNKNOWN, _CONTROL, _USER = 2, 3, 4
"""Types of tokens."""

_GPT2 = [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]
_DIGITS = [{"type": "Digits", "individual_digits": True}]
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def _cut(pattern: str) -> list[dict[str, Any]]:
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return [split, {**_GPT2[0], "use_regex": False}]


_LLAMA3 = _cut(
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _cut(
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CUTS = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": _DIGITS + _GPT2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
"""`tokenizer.ggml.pre` -> how texts are cut into words."""

_WHOLE_WORDS = (_LLAMA3,)
"""Cuts of vocabularies in which a word that is a token stays whole, whatever the merges say."""


def tokenizer_files(meta: dict[str, Any], where: object) -> dict[str, str]:
    """Contents by file name: `tokenizer.json`, `tokenizer_config.json` and, where the model has
    one, `chat_template.jinja`. Raises ModelError for vocabularies that silva does not know.
    """
    kind = meta.get("tokenizer.ggml.model")
    tokens = meta.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= MOST_TOKENS:
        raise _refused("tokens", "is no list of texts", where)
    if not all(isinstance(token, str) for token in tokens):
        raise _refused("tokens", "is no list of texts", where)
    if not isinstance(kind, str) or kind not in ("gpt2", "llama"):
        raise _refused("model", f"{short(kind)} is neither gpt2 nor llama", where)
    read = _byte_level if kind == "gpt2" else _sentencepiece
    raw = read(meta, tokens, where)
    raw["added_tokens"] = _added(tokens, _types(meta, tokens, where))
    bos = _token(meta, "bos", tokens)
    adds = meta.get("tokenizer.ggml.add_bos_token", kind == "llama" or _is_llama3(meta))
    if adds is True and bos is not None:
        raw["post_processor"] = _begins_with(bos, tokens.index(bos))
    names = {
        name: _token(meta, _GGUF_NAMES.get(name[:3], name[:3]), tokens) for name in SPECIAL_NAMES
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{name: token for name, token in names.items() if token is not None},
    }
    found = {
        "tokenizer.json": json.dumps(raw, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2),
    }
    template = meta.get("tokenizer.chat_template")
    return found | ({"chat_template.jinja": template} if isinstance(template, str) else {})


_GGUF_NAMES = {"unk": "unknown", "pad": "padding", "sep": "seperator"}
"""As the format spells them."""


def _byte_level(meta: dict[str, Any], tokens: list[str], where: object) -> dict[str, Any]:
    pre = meta.get("tokenizer.ggml.pre", "default")
    if not isinstance(pre, str) or pre not in _CUTS:
        raise ModelError(
            f"tokenizer.ggml.pre: {short(pre)} is none of {', '.join(_CUTS)}",
            where=where,
            remedy="use the model's safetensors and tokenizer.json",
        )
    merges = meta.get("tokenizer.ggml.merges")
    if not isinstance(merges, list) or not all(isinstance(m, str) for m in merges):
        raise _refused("merges", "is no list of texts", where)
    pairs = [merge.split(" ") for merge in merges]
    if not all(len(pair) == 2 for pair in pairs):
        raise _refused("merges", "has one that is no pair", where)
    return {
        "version": "1.0",
        "normalizer": {"type": "NFC"} if _CUTS[pre] is _QWEN2 else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _CUTS[pre]},
        "decoder": _GPT2[0],
        "model": {
            "type": "BPE",
            "ignore_merges": any(_CUTS[pre] is cut for cut in _WHOLE_WORDS),
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": pairs,
        },
    }


def _is_llama3(meta: dict[str, Any]) -> bool:
    pre = meta.get("tokenizer.ggml.pre")
    return isinstance(pre, str) and _CUTS.get(pre) is _LLAMA3


def _sentencepiece(meta: dict[str, Any], tokens: list[str], where: object) -> dict[str, Any]:
    scores = meta.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
        raise _refused("scores", "is no list of a number for each token", where)
    space = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    if meta.get("tokenizer.ggml.add_space_prefix", True) is True:
        space.insert(0, {"type": "Prepend", "prepend": "▁"})
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if len(space) == 2:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": space},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "unk_token": _token(meta, "unknown", tokens),
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": _merges(tokens, scores.astype(np.float64).tolist()),
        },
    }


def _merges(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """The pairs that make up each token, best score first: SentencePiece merges in this order."""
    ids = {token: n for n, token in enumerate(tokens)}
    found: list[tuple[float, int, int, str, str]] = []
    for token, n in ids.items():
        for cut in range(1, len(token) if len(token) <= _LONGEST_MERGED else 0):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                found.append((-scores[n], ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


_LONGEST_MERGED = 512
"""Characters; longer tokens are none that a merge makes."""


def _types(meta: dict[str, Any], tokens: list[str], where: object) -> list[int]:
    types = meta.get("tokenizer.ggml.token_type")
    if types is None:
        return [1] * len(tokens)
    integers = isinstance(types, np.ndarray) and types.dtype.kind in "iu"
    if not integers or len(types) != len(tokens):
        raise _refused("token_type", "is no list of a type for each token", where)
    return [int(t) for t in types.tolist()]


def _added(tokens: list[str], types: list[int]) -> list[dict[str, Any]]:
    """Control tokens steer the model; user-defined ones are text that stays whole."""
    seen = {token: n for n, token in enumerate(tokens)}
    return [
        {
            "id": n,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != _USER,
        }
        for n, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_UNKNOWN, _CONTROL, _USER) and token and seen[token] == n
    ]


def _begins_with(bos: str, n: int) -> dict[str, Any]:
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    single, pair = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [first, single],
        "pair": [first, single, first, pair],
        "special_tokens": {bos: {"id": bos, "ids": [n], "tokens": [bos]}},
    }


def _token(meta: dict[str, Any], name: str, tokens: list[str]) -> str | None:
    n = meta.get(f"tokenizer.ggml.{name}_token_id")
    return tokens[n] if type(n) is int and 0 <= n < len(tokens) else None


def _refused(name: str, why: str, where: object) -> ModelError:
    return ModelError(f"tokenizer.ggml.{name} {why}", where=where)
