from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from forest_cases import draw, same_tier, signature, tier
from hypothesis import given
from hypothesis import strategies as st

from silva.adapters import codec
from silva.adapters.objects import ObjectStore, decode_tensors, encode_tensors
from silva.adapters.tiers import Head, LoraPair, Tier
from silva.errors import ForestError


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path)


def test_bytes_depend_on_content_alone() -> None:
    one = {"b": torch.ones(2), "a": torch.zeros(3)}
    metadata = {k: k * 2 for k in "zyxwvut"}
    expected = encode_tensors(one, metadata)
    turned = encode_tensors(dict(reversed(one.items())), dict(reversed(metadata.items())))
    assert expected == turned
    assert expected.index(b'"t"') < expected.index(b'"z"')
    transposed = torch.arange(6.0).view(2, 3).T
    tensors, found = decode_tensors(encode_tensors({"t": transposed}, metadata), "here")
    assert torch.equal(tensors["t"], transposed) and found == metadata


def test_put_get_and_put_again(store: ObjectStore) -> None:
    first = store.put({"x": torch.ones(2)}, {"kind": "t"})
    again = store.put({"x": torch.ones(2)}, {"kind": "t"})
    assert (first.fresh, again.fresh, first.digest) == (True, False, again.digest)
    tensors, metadata = store.get(first.digest)
    assert torch.equal(tensors["x"], torch.ones(2)) and metadata == {"kind": "t"}
    assert [p.name for p in store.folder.iterdir()] == [first.digest]


def test_every_damage_is_named(store: ObjectStore) -> None:
    stored = store.put(*codec.encode_tier(tier("leaf", 0, rank=1)))
    path = store.folder / stored.digest
    whole = path.read_bytes()
    for position in range(0, len(whole), 37):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(ForestError, match=stored.digest):
            store.get(stored.digest)
    path.write_bytes(whole[:-1])
    with pytest.raises(ForestError, match=stored.digest):
        store.get(stored.digest)
    path.unlink()
    with pytest.raises(ForestError, match="missing"):
        store.get(stored.digest)
    path.mkdir()
    with pytest.raises(ForestError):
        store.get(stored.digest)


def test_put_mends_a_damaged_object(store: ObjectStore) -> None:
    stored = store.put({"x": torch.ones(2)}, {})
    (store.folder / stored.digest).write_bytes(b"junk")
    assert store.put({"x": torch.ones(2)}, {}).fresh
    store.get(stored.digest)


@pytest.mark.parametrize("name", ["../current", "", "A" * 64, "ab" * 32 + "\n", "/etc/passwd"])
def test_only_digests_name_objects(store: ObjectStore, name: str) -> None:
    with pytest.raises(ForestError):
        store.get(name)


def test_half_precision_is_read_as_float32(store: ObjectStore) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        stored = store.put({"x": torch.ones(3, dtype=dtype)}, {})
        assert store.get(stored.digest)[0]["x"].dtype == torch.float32


@pytest.mark.parametrize(
    "bad", [torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")]),
            torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.float64)],
)  # fmt: skip
def test_bad_values_are_refused_both_ways(store: ObjectStore, bad: torch.Tensor) -> None:
    with pytest.raises(ForestError):
        store.put({"x": bad}, {})
    with pytest.raises(ForestError):
        decode_tensors(safetensors.torch.save({"x": bad}), "here")
    assert not list(store.folder.iterdir())


@given(st.binary(max_size=300))
def test_random_bytes_are_a_forest_error(data: bytes) -> None:
    with pytest.raises(ForestError):
        codec.decode_tier(decode_tensors(data, "here"), "here")


@given(st.integers(0, 4000), st.integers(0, 255))
def test_hostile_headers_are_a_forest_error_or_harmless(position: int, value: int) -> None:
    data = bytearray(encode_tensors(*codec.encode_tier(tier("leaf", 0, rank=1))))
    data[position % len(data)] = value
    with suppress(ForestError):
        codec.decode_tier(decode_tensors(bytes(data), "here"), "here")


def test_full_disk_leaves_nothing(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ForestError, match="No space left"):
        store.put({"x": torch.ones(2)}, {})
    assert not list(store.folder.iterdir())


def test_codecs_round_trip() -> None:
    root = tier("root", 3, rank=3, scaling=1 / 3)
    assert same_tier(codec.decode_tier(codec.encode_tier(root), "here"), root)
    bases, start = signature(1), draw()
    found = codec.decode_signature(codec.encode_signature(bases), "here")
    assert all(torch.equal(found[m], bases[m]) for m in bases) and set(found) == set(bases)
    found = codec.decode_probe(codec.encode_probe(start), "here")
    assert all(torch.equal(found[m], start[m]) for m in start) and set(found) == set(start)


def test_tier_keys_are_compared_both_ways() -> None:
    tensors, metadata = codec.encode_tier(tier("leaf", 0))
    for key in list(tensors):
        less = {k: v for k, v in tensors.items() if k != key}
        with pytest.raises(ForestError):
            codec.decode_tier((less, metadata), "here")
    for extra in ("pair.x.C", "other", "head.scale", "pair..A"):
        with pytest.raises(ForestError):
            codec.decode_tier(({**tensors, extra: torch.ones(1, 1)}, metadata), "here")
    for wrong in ({"kind": "probe"}, {"tier": "twig"}, {"scaling": "two"}, {"scaling": "nan"},
                  {"format": "2"}):  # fmt: skip
        with pytest.raises(ForestError):
            codec.decode_tier((tensors, {**metadata, **wrong}), "here")


def test_shapes_are_checked() -> None:
    good = tier("leaf", 0)
    flat = LoraPair(B=torch.ones(7), A=torch.ones(2, 5))
    uneven = LoraPair(B=torch.ones(7, 3), A=torch.ones(2, 5))
    for pair in (flat, uneven):
        with pytest.raises(ForestError):
            codec.check_tier(Tier("leaf", {"m": pair}, good.head, 1.0), "here")
    with pytest.raises(ForestError):
        codec.check_tier(
            Tier("leaf", good.pairs, Head(torch.ones(3, 5), torch.ones(2)), 1.0), "here"
        )
    with pytest.raises(ForestError):
        codec.decode_signature(codec.encode_signature({"m": torch.ones(4, 2)}), "here")
