from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from silva.errors import ModelError
from silva.models.mapped import MappedFile, Placed, write_mapped

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b": torch.arange(9, dtype=torch.float32).view(3, 3) + 10,
    "c": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
    "d": torch.tensor(3.0, dtype=torch.float16),
    "e": torch.zeros(0, 4),
}
WHOLE = save(TENSORS)


def written(order: list[str], dtype: torch.dtype = torch.float32) -> bytes:
    file = io.BytesIO()
    entries = [Placed(n, tuple(TENSORS[n].shape), dtype) for n in order]
    write_mapped(file, entries, TENSORS.__getitem__)
    return file.getvalue()


def mapped_pages(path: Path) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if line.endswith(str(path))]


def test_tensors_are_those_of_the_library(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors")
    file = MappedFile(tmp_path / "x.safetensors")
    expected = load_file(tmp_path / "x.safetensors")
    assert file.entries.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(file.tensor(name), tensor)
        assert file.tensor(name).dtype == tensor.dtype


def test_tensors_lie_in_the_mapped_file_and_it_never_changes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(written(["a", "b"]))
    before, file = path.read_bytes(), MappedFile(path)
    a = file.tensor("a")
    [line] = mapped_pages(path)
    low, high = (int(n, 16) for n in line.split()[0].split("-"))
    assert low <= a.data_ptr() < high and line.split()[1].endswith("p")
    assert file.tensor("a").data_ptr() == a.data_ptr()
    a.fill_(7.0)
    assert path.read_bytes() == before
    assert torch.equal(MappedFile(path).tensor("a"), TENSORS["a"])


def test_a_file_that_may_only_be_read_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(written(["a"]))
    path.chmod(0o444)
    assert torch.equal(MappedFile(path).tensor("a"), TENSORS["a"])


def test_neighbours_are_one_view(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(written(["b", "a", "c"]))
    file = MappedFile(path)
    joined = file.joined(["b", "a"])
    assert joined is not None
    assert torch.equal(joined, torch.cat([TENSORS["b"], TENSORS["a"]]))
    assert joined.data_ptr() == file.tensor("b").data_ptr()
    assert file.joined(["a", "b"]) is None
    assert file.joined(["a", "c"]) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_others_read_what_is_written(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(written(list("cabde"), dtype))
    found = load_file(path)
    assert all(torch.equal(found[n], t.to(dtype)) for n, t in TENSORS.items())


def header_of(**changes: Any) -> bytes:
    """A file of one tensor x, eight bytes, with a changed header entry."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    text = json.dumps({"x": entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (10).to_bytes(8, "little") + b"[" * 10,
        WHOLE[:-1],
        WHOLE + b"\0",
        header_of(dtype="I64", shape=[1]),
        header_of(dtype=5),
        header_of(shape=[3]),
        header_of(shape=[-2]),
        header_of(shape=[2.0]),
        header_of(shape=[1] * 9 + [2]),
        header_of(shape=[1 << 61, 1 << 61]),
        header_of(data_offsets=[8, 16]),
        header_of(data_offsets=[-8, 0]),
        header_of(data_offsets=[0]),
        header_of(data_offsets=None),
        header_of().replace(b'"x"', b'"x": {}, "x"'),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        MappedFile(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be mapped"):
        MappedFile(tmp_path / "none")


@given(st.data())
def test_what_is_accepted_the_library_accepts_too(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    path.write_bytes(content[:cut])
    try:
        file = MappedFile(path)
    except ModelError:
        return
    with safe_open(path, framework="pt") as opened:
        assert set(opened.keys()) == set(file.entries)
    for name in file.entries:
        assert file.tensor(name).numel() >= 0
