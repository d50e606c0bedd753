from __future__ import annotations

import os
import pickle
import pickletools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.data import safe_pickle
from silva.data.safe_pickle import read_table
from silva.errors import DataError

TABLE: dict[str, Any] = {
    "data": np.arange(24, dtype=np.uint8).reshape(4, 6),
    "fine_labels": [3, 1, 4, 70_000],
    "filenames": ["a.png", "b.png", "c.png", "d.png"],
    "nested": (1, (2, None), True, 2.5, b"bytes", {"x": []}),
}


class Hostile:
    """Its pickle calls `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_reads_as_pickle_does(protocol: int) -> None:
    found = read_table(pickle.dumps(TABLE, protocol), "t")
    assert np.array_equal(found.pop("data"), TABLE["data"])
    assert found == {name: value for name, value in TABLE.items() if name != "data"}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<u2", ">i4", "<f8", "|b1"])
def test_arrays_keep_type_and_order(kind: str, order: str) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=kind, order=order)  # type: ignore[call-overload]
    assert np.array_equal(read_table(pickle.dumps({"a": array}, 2), "t")["a"], array)


def test_python_2_strings_as_in_the_published_files() -> None:
    # dict(data=ndarray((1, 3), uint8), label="x") as Python 2 and numpy 1 wrote it
    text = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87R"
        b"q\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03\x00\x80\xfftb"
        b"U\x05labelU\x01xu."
    )
    found = read_table(text, "t")
    assert found["data"].tolist() == [[0, 128, 255]]
    assert found["label"] == "x"


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "eval"), (np.ndarray, "ndarray"), (getattr, "getattr")],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_calls_are_refused_by_name(function: Any, name: str, protocol: int) -> None:
    payload = pickle.dumps({"data": Hostile(function, "touch owned")}, protocol)
    with pytest.raises(DataError, match=rf"(wants to run|call of).*({name}|no function)") as caught:
        read_table(payload, "cifar: train")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("cifar: train: pickle")


def test_nothing_runs(tmp_path: Any) -> None:
    target = tmp_path / "owned"
    with pytest.raises(DataError, match=r"wants to run \w+\.system"):
        read_table(pickle.dumps({"x": Hostile(os.system, f"touch {target}")}), "t")
    assert not target.exists()


def test_object_arrays_are_refused() -> None:
    with pytest.raises(DataError, match="other things than numbers"):
        read_table(pickle.dumps({"a": np.array([{}], dtype=object)}, 2), "t")


def test_arrays_must_fill_their_shape() -> None:
    text = pickle.dumps({"a": np.zeros((4, 6), np.uint8)}, 2).replace(b"K\x04K\x06", b"K\x04K\x07")
    with pytest.raises(DataError, match="do not fill"):
        read_table(text, "t")


def test_nested_names_are_neither_shown_nor_hashed() -> None:
    # A tuple of a tuple of a tuple ...: 2^200 leaves, should anything walk it.
    laughs = b"(K\x01" + b"q\x00h\x00\x86" * 200
    for end in (b"K\x01\x93.", b")R.", b"K\x02d.", b"}K\x01b."):
        with pytest.raises(DataError):
            read_table(b"\x80\x04" + laughs + end, "t")


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_pickle, "MAX_OPCODES", 50)
    with pytest.raises(DataError, match="more than 50 opcodes"):
        read_table(b"(" + b"]" * 100 + b".", "t")
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="limit is 10"):
        read_table(b"]" * 11, "t")


@pytest.mark.parametrize("value", [[1], 3, "x"])
def test_only_a_dict_is_a_table(value: Any) -> None:
    with pytest.raises(DataError, match="not one dict"):
        read_table(pickle.dumps(value), "t")


@given(st.binary(max_size=200))
def test_random_bytes_are_data_errors(data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        read_table(data, "t")
    assert "\n" not in str(caught.value)


@settings(max_examples=300)
@given(st.data(), st.sampled_from([0, 2, 5]))
def test_mutated_pickles_are_read_or_data_errors(data: st.DataObject, protocol: int) -> None:
    text = bytearray(pickle.dumps(TABLE, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    text = text[: data.draw(st.integers(len(text) // 2, len(text)))]
    try:
        assert isinstance(read_table(bytes(text), "t"), dict)
    except DataError as error:
        assert "\n" not in str(error)


_CODES = [code.code.encode("latin-1") for code in pickletools.opcodes if code.arg is None]


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*_CODES, b"K\x01", b"X\x01\x00\x00\x00u", b"q\x00", b"h\x00"])))
def test_any_sequence_of_opcodes_is_read_or_a_data_error(codes: list[bytes]) -> None:
    try:
        read_table(b"\x80\x04" + b"".join(codes) + b".", "t")
    except DataError as error:
        assert "\n" not in str(error)
