"""Keys say all that KV depends on; the index knows what is there and what is being made."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.control.prefix import CacheIdentity, PrefixIndex, chain, extend, root_key
from silva.control.request import Request

IDENTITY = CacheIdentity("d1", "float32", 4)
TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=20)


@given(TOKENS, TOKENS)
def test_keys_agree_exactly_as_far_as_the_tokens_do(one: list[int], other: list[int]) -> None:
    root = IDENTITY.root()
    for a, b in zip(chain(root, one, 4), chain(root, other, 4), strict=False):
        covered = 4 * (chain(root, one, 4).index(a) + 1)
        assert (a == b) == (one[:covered] == other[:covered])


@given(TOKENS, TOKENS)
def test_extension_equals_the_chain_from_the_start(head: list[int], tail: list[int]) -> None:
    root = IDENTITY.root("path", "me")
    known = chain(root, head, 4)
    assert extend(root, known, head + tail, 4) == chain(root, head + tail, 4)
    assert extend(root, known, head + tail, 4)[: len(known)] == known


def test_only_full_blocks_have_keys() -> None:
    root = IDENTITY.root()
    assert [len(chain(root, range(n), 4)) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]
    assert all(len(key) == 32 for key in chain(root, range(8), 4))
    with pytest.raises(ValueError, match="only 1 full"):
        extend(root, [b"a", b"b"], range(7), 4)


def test_the_encoding_is_the_documented_one() -> None:
    header = struct.pack("<16sII", b"silva kv root", 1, 2)
    fields = b"".join(struct.pack("<Q", len(f)) + f for f in (b"m", b"f", "2:pä1:q".encode(), b""))
    root = hashlib.sha256(header + fields).digest()
    assert root_key("m", "f", 2, ("pä", "q"), "") == root
    block = struct.pack("<16s32s2I", b"silva kv block", root, 5, 6)
    assert chain(root, (5, 6), 2) == (hashlib.sha256(block).digest(),)


TEXTS = st.text(max_size=3)
ROOTS = st.tuples(TEXTS, TEXTS, st.lists(TEXTS, max_size=3).map(tuple), TEXTS)


@given(st.lists(ROOTS, min_size=2, max_size=2, unique=True))
def test_no_two_roots_are_alike(pair: list[tuple[str, str, tuple[str, ...], str]]) -> None:
    a, b = (root_key(model, kv, 4, path, name) for model, kv, path, name in pair)
    assert a != b


def test_roots_differ_in_every_field() -> None:
    request = Request("r", (1, 2, 3, 4), emitted=(5, 6, 7, 8))
    keys = IDENTITY.keys(request)
    assert len(keys) == 2
    others = [
        IDENTITY.keys(replace(request, namespace="x")),
        IDENTITY.keys(replace(request, path=("x",))),
        replace(IDENTITY, model_digest="d2").keys(request),
        replace(IDENTITY, numerics="bfloat16").keys(request),
        replace(IDENTITY, block_tokens=2).keys(request),
    ]
    assert not set(keys) & {key for other in others for key in other}
    assert IDENTITY.keys(replace(request, id="s", priority=3, attempt=1)) == keys


@pytest.mark.parametrize("token", [-1, 2**32])
def test_impossible_tokens_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match="tokens 4 and after"):
        chain(IDENTITY.root(), (0, 0, 0, 0, 1, token, 3, 4), 4)


def test_blocks_of_no_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="block_tokens"):
        root_key("m", "f", 0, (), "")


def test_a_key_in_the_making_is_waited_for_and_then_found() -> None:
    index = PrefixIndex()
    index.begin(b"k", "maker")
    assert index.maker(b"k") == "maker" and index.find(b"k") is None
    index.wait(b"k", "x")
    index.wait(b"k", "y")
    index.unwait(b"k", "x")
    index.wait(b"k", "z")
    assert index.complete(b"k", 7, "maker") == (("y", "z"), True)
    assert index.find(b"k") == 7 and index.key_of(7) == b"k" and index.maker(b"k") is None
    index.evict(7)
    assert index.find(b"k") is None and index.key_of(7) is None and len(index) == 0


def test_a_key_nobody_makes_any_more_frees_those_who_wait() -> None:
    index = PrefixIndex()
    index.begin(b"k", "maker")
    index.wait(b"k", "x")
    assert index.withdraw(b"k", "other") == ()
    assert index.withdraw(b"k", "maker") == ("x",)
    assert index.maker(b"k") is None
    with pytest.raises(ValueError, match="nobody makes"):
        index.wait(b"k", "x")


def test_another_copy_of_a_block_is_not_entered() -> None:
    index = PrefixIndex()
    index.begin(b"k", "maker")
    index.wait(b"k", "x")
    assert index.complete(b"k", 1, "somebody else") == ((), True)
    assert index.complete(b"k", 2, "maker") == (("x",), False)
    assert index.find(b"k") == 1 and list(index) == [b"k"]
    with pytest.raises(ValueError, match="in the making"):
        index.begin(b"k", "late")
