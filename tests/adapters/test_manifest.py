from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.adapters.files import parse_json
from silva.adapters.label_priors import LabelPriors
from silva.adapters.manifest import (
    AdapterShape,
    BaseModel,
    ClientEntry,
    ClusterEntry,
    Manifest,
    from_plain,
)
from silva.errors import ForestError

A, B, C, D, E = (letter * 64 for letter in "abcde")


def example() -> Manifest:
    return Manifest(
        version=3,
        parent=1,
        base=BaseModel("tiny", E),
        adapter=AdapterShape(8, 16.0, ("q_proj", "v_proj")),
        classes=("ant", "bee"),
        probe=D,
        root=A,
        clusters={"cluster-0": ClusterEntry(B, C)},
        clients={
            "c-0": ClientEntry("cluster-0", A, True, 10, "", {"root": 0.5}),
            "c-1": ClientEntry(seen=False),
        },
        objects={A: 1, B: 2, C: 3, D: 4},
    )


def test_round_trip_is_exact_and_deterministic() -> None:
    data = example().to_bytes()
    read = Manifest.from_bytes(data, "v")
    assert read == example()
    assert read.to_bytes() == data
    assert read.adapter.scaling == 2.0


def test_labels_are_kept_and_must_be_of_its_classes_and_clusters() -> None:
    priors = LabelPriors({"cluster-0": [0.25, 0.75]}, 2.0)
    manifest = replace(example(), labels=priors)
    assert Manifest.from_bytes(manifest.to_bytes(), "v") == manifest
    assert b"labels" not in example().to_bytes()
    for groups in ({"cluster-1": [0.25, 0.75]}, {"cluster-0": [0.25, 0.25, 0.5]}):
        with pytest.raises(ForestError, match="labels"):
            from_plain(replace(manifest, labels=replace(priors, groups=groups)).as_plain(), "v")


def test_every_flipped_byte_is_noticed() -> None:
    data = example().to_bytes()[:-1]
    for position in range(len(data)):
        damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(ForestError):
            Manifest.from_bytes(damaged, "v")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 2), (["version"], 0), (["version"], True), (["version"], "3"),
        (["parent"], 3), (["parent"], 9), (["base"], []), (["base", "digest"], "x"),
        (["base", "id"], "x" * 300), (["adapter", "rank"], 0), (["adapter", "alpha"], "x"),
        (["adapter", "alpha"], 1e300), (["adapter", "targets"], []),
        (["adapter", "targets"], ["../x"]), (["adapter", "targets"], ["q", "q"]),
        (["adapter", "targets"], [1]), (["classes"], []), (["classes"], ["a", "a"]),
        (["classes"], [1]), (["classes"], "ab"), (["probe"], "x"), (["probe"], E),
        (["root"], A), (["root"], {"object": E}), (["root", "object"], None),
        (["clusters"], []), (["clusters"], {}), (["clusters", "cluster-00"], {}),
        (["clusters", "cluster-0", "object"], 1), (["clients"], None),
        (["clients", "../x"], {}), (["clients", "root"], {}), (["clients", "c-0"], 5),
        (["clients", "c-0", "cluster"], "cluster-9"), (["clients", "c-0", "cluster"], []),
        (["clients", "c-0", "seen"], 1), (["clients", "c-0", "images"], -1),
        (["clients", "c-0", "images"], 1.5), (["clients", "c-0", "accuracy"], {"root": 2}),
        (["clients", "c-0", "accuracy"], {"root": "x"}), (["clients", "c-0", "accuracy"], {"/": 1}),
        (["clients", "c-0", "extra"], 1), (["objects"], {}), (["objects", A], -1),
        (["objects", E], 1), (["objects", "x"], 1), (["extra"], 1),
    ],
)  # fmt: skip
def test_each_bad_field_is_refused(path: list[str], value: Any) -> None:
    plain = copy.deepcopy(example().as_plain())
    assert from_plain(copy.deepcopy(plain), "v") == example()
    place = plain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ForestError) as error:
        from_plain(plain, "v")
    assert "\n" not in str(error.value)


SETTINGS: dict[str, Any] = {
    "head": "tiered",
    "leaf": {"rate": 0.5},
    "controls": ["head_only"],
    "local": {"lr": 1e-3, "epochs": 2, "deep": {"er": {"yes": True}}},
}


def test_settings_are_kept_as_they_were_given() -> None:
    tuned = replace(example(), settings=SETTINGS)
    assert Manifest.from_bytes(tuned.to_bytes(), "v") == tuned
    assert tuned.checksum() != example().checksum()


def test_a_version_from_before_there_were_settings_is_read() -> None:
    plain = example().as_plain()
    assert "settings" not in plain and from_plain(plain, "v").settings is None


@pytest.mark.parametrize(
    "value",
    [None, 5, [], {"A": 1}, {"a": None}, {"a": [[1]]}, {"a": [0] * 65}, {"a": "x" * 300},
     {"a": 1e301}, {"a": 10**400}, {"a": {"b": {"c": {"d": {"e": 1}}}}},
     {f"a{n}": 1 for n in range(65)}],
)  # fmt: skip
def test_settings_of_another_kind_are_refused(value: Any) -> None:
    with pytest.raises(ForestError, match="settings"):
        from_plain({**example().as_plain(), "settings": value}, "v")


def test_each_missing_field_is_refused() -> None:
    for key in example().as_plain():
        plain = copy.deepcopy(example().as_plain())
        del plain[key]
        with pytest.raises(ForestError):
            from_plain(plain, "v")


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[" * 200_000, b"1" * 10_000, b"NaN", b'{"a":1,"a":2}', b"[Infinity]", b"null",
     b'{"format":1e999}', b'"\\ud800"', b"[]", b"{}"],
)  # fmt: skip
def test_malformed_json_is_a_forest_error(data: bytes) -> None:
    with pytest.raises(ForestError):
        Manifest.from_bytes(data, "v")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
PATHS: list[list[str]] = [
    ["format"], ["version"], ["parent"], ["base"], ["base", "id"], ["base", "digest"],
    ["adapter"], ["adapter", "rank"], ["adapter", "alpha"], ["adapter", "targets"], ["classes"],
    ["probe"], ["root"], ["root", "object"], ["clusters"], ["clusters", "cluster-0"],
    ["clusters", "cluster-0", "signature"], ["clients"], ["clients", "c-0"],
    ["clients", "c-0", "cluster"], ["clients", "c-0", "leaf"], ["clients", "c-0", "seen"],
    ["clients", "c-0", "images"], ["clients", "c-0", "style"], ["clients", "c-0", "accuracy"],
    ["clients", "c-0", "accuracy", "root"], ["objects"], ["objects", A], ["settings"],
]  # fmt: skip


@settings(max_examples=150)
@given(st.sampled_from(PATHS), JSON)
def test_any_value_anywhere_is_read_or_a_forest_error(path: list[str], value: Any) -> None:
    plain = copy.deepcopy(example().as_plain())
    place = plain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        manifest = from_plain(plain, "v")
    except ForestError:
        return
    assert Manifest.from_bytes(manifest.to_bytes(), "v") == manifest


@given(JSON)
def test_any_json_is_a_forest_error(value: Any) -> None:
    with pytest.raises(ForestError):
        Manifest.from_bytes(json.dumps(value).encode(), "v")


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_a_forest_error(data: bytes) -> None:
    try:
        parse_json(data, "v")
    except ForestError:
        return


def test_ten_thousand_clients_are_read_back() -> None:
    clients = {f"c-{n:05d}": ClientEntry("cluster-0", f"{n:064x}", True, 5) for n in range(10_000)}
    sizes = {f"{n:064x}": 5 for n in range(10_000)}
    full = example()
    big = Manifest(**{**full.__dict__, "clients": clients, "objects": {**full.objects, **sizes}})
    assert len(Manifest.from_bytes(big.to_bytes(), "v").clients) == 10_000


def of_texts() -> Manifest:
    """The same forest of a language model."""
    clients = {
        "c-0": ClientEntry("cluster-0", A, True, 10, "", perplexity={"root": 12.5, "leaf": 1.0}),
        "c-1": ClientEntry(seen=False),
    }
    return replace(example(), classes=None, clients=clients)


def test_a_forest_of_texts_has_no_classes_and_clients_have_perplexities() -> None:
    data = of_texts().to_bytes()
    assert Manifest.from_bytes(data, "v") == of_texts()
    plain = json.loads(data)
    assert plain["classes"] is None and plain["clients"]["c-0"]["perplexity"]["root"] == 12.5
    assert "perplexity" not in plain["clients"]["c-1"]
    assert "perplexity" not in json.loads(example().to_bytes())["clients"]["c-0"]


@pytest.mark.parametrize("value", [0.5, float("inf"), "low", None, {}])
def test_a_perplexity_below_one_or_no_number_is_refused(value: object) -> None:
    plain = of_texts().as_plain()
    plain["clients"]["c-0"]["perplexity"] = {"root": value}
    with pytest.raises(ForestError, match="perplexity"):
        from_plain(plain, "v")
