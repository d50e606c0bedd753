from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("gguf")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

import gguf
from gguf_cases import KINDS, write_gguf

from silva.errors import ModelError
from silva.models.convert import convert_gguf
from silva.models.gguf_file import GGUFFile
from silva.models.gguf_types import TENSOR_TYPES


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small valid file."""
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    write_gguf(path, kind="Q4_1", num_hidden_layers=1)
    return path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_package(tmp_path: Path, kind: str) -> None:
    write_gguf(tmp_path / "x.gguf", kind=kind)
    ours, theirs = GGUFFile(tmp_path / "x.gguf"), gguf.GGUFReader(tmp_path / "x.gguf")
    assert list(ours.tensors) == [t.name for t in theirs.tensors]
    for tensor in theirs.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found = ours.read(tensor.name)
        assert found.dtype == np.float32 and found.shape == tuple(tensor.shape[::-1])
        assert np.array_equal(found.reshape(-1), expected.reshape(-1))


def test_long_tensors_are_decoded_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "x.gguf", kind="Q8_0")
    file = GGUFFile(tmp_path / "x.gguf")
    whole = file.read("token_embd.weight")
    monkeypatch.setattr("silva.models.gguf_file.CHUNK_ELEMENTS", 96)
    assert np.array_equal(file.read("token_embd.weight"), whole)


def test_metadata_are_those_of_the_package(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf")
    ours, theirs = GGUFFile(tmp_path / "x.gguf"), gguf.GGUFReader(tmp_path / "x.gguf")
    fields = {k: f for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert ours.metadata.keys() == fields.keys()
    for key, field in fields.items():
        value = ours.metadata[key]
        value = value.tolist() if isinstance(value, np.ndarray) else value
        assert value == field.contents(), key


def test_a_file_that_becomes_shorter(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(small)
    file = GGUFFile(path)
    path.write_bytes(small[:-1000])
    with pytest.raises(ModelError, match="has become shorter"):
        [file.read(name) for name in file.tensors]
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        file.read("token_embd.weight")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def head(keys: int = 0, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def a_tensor(name: str = "t", dims: Any = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return (
        text(name)
        + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        + struct.pack("<IQ", kind, offset)
    )


MANY, HUGE = 1 << 40, (1 << 64) - 1


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "ends within"),
        (b"GGML" + bytes(100), "begin with GGUF"),
        (head(version=1), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "byte order"),
        (head(keys=MANY), "keys"),
        (head(tensors=HUGE), "tensors"),
        (head(keys=1) + struct.pack("<Q", HUGE), "text of"),
        (head(keys=1) + struct.pack("<Q", 3) + b"\xff\xff\xff", "UTF-8"),
        (head(keys=1) + text("a") + struct.pack("<I", 77), "value type 77"),
        (head(keys=1) + text("a") + struct.pack("<IIQ", 9, 8, MANY), "texts"),
        (head(keys=1) + text("a") + struct.pack("<IIQ", 9, 4, HUGE), "ends within"),
        (head(keys=1) + text("a") + struct.pack("<IIQ", 9, 9, 1), "list of the value type 9"),
        (head(keys=2) + (text("a") + struct.pack("<IB", 7, 1)) * 2, "twice"),
        (head(tensors=1) + a_tensor(dims=(1,) * 5) + bytes(999), "5 dimensions"),
        (head(tensors=1) + a_tensor(dims=(0,)) + bytes(999), "shape"),
        (head(tensors=1) + a_tensor(dims=(HUGE, HUGE)) + bytes(999), "lie in the file"),
        (head(tensors=1) + a_tensor(dims=(33,), kind=8) + bytes(999), "shape"),
        (head(tensors=1) + a_tensor(kind=12) + bytes(999), "tensor type 12"),
        (head(tensors=1) + a_tensor(offset=HUGE) + bytes(999), "lie in the file"),
        (head(tensors=1) + a_tensor(offset=4) + bytes(999), "lie in the file"),
        (head(tensors=1) + a_tensor() + bytes(100), "lie in the file"),
        (head(tensors=2) + a_tensor() * 2 + bytes(999), "twice"),
        (
            head(keys=1) + text("general.alignment") + struct.pack("<II", 4, 0) + bytes(99),
            "alignment",
        ),
    ],
)
def test_a_hostile_file_is_refused(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=named):
        GGUFFile(tmp_path / "x.gguf")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            GGUFFile(path)


@settings(max_examples=200)
@given(st.data())
def test_any_change_of_a_file_is_converted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, small: bytes, data: st.DataObject
) -> None:
    content = bytearray(small)
    # most of the file is the vocabulary and weights: half of the changes fall into its beginning
    places = st.integers(0, len(small) - 1) | st.integers(0, 900)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(places)
        new = data.draw(
            st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)])
        )
        content[at : at + len(new)] = new
    cut = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "x.gguf").write_bytes(content[:cut])
    (folder / "out").mkdir()
    try:
        convert_gguf(folder / "x.gguf", folder / "out", "float32", lambda done, total: None)
    except ModelError as error:
        assert "x.gguf" in str(error) or "holds NaN" in str(error)


def test_the_types_are_those_of_the_package() -> None:
    for code, kind in TENSOR_TYPES.items():
        assert KINDS[kind.name].value == code
        assert gguf.GGML_QUANT_SIZES[KINDS[kind.name]] == (kind.block, kind.size)
