from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.config import as_plain, build, overlay, paths, read_toml, setting
from silva.data.config import DataConfig
from silva.errors import ConfigError
from silva.federation.config import FederationConfig


@dataclass(frozen=True)
class Inner:
    rate: float = setting(0.5, low=0.0, high=1.0, help="a share")
    kind: str = setting("soft", choices=("soft", "hard"), help="a choice")
    names: tuple[str, ...] = setting(("a",), choices=("a", "b", "c"), help="some of them")
    sizes: tuple[int, ...] = setting((), low=1, high=9, help="any number of sizes")


@dataclass(frozen=True)
class Outer:
    title: str
    count: int = setting(3, low=0, help="at least none")
    quick: bool = setting(False, help="a switch")
    limit: float | None = setting(None, low=0.0, help="none for no limit")
    inner: Inner = field(default_factory=Inner)


inners = st.builds(
    Inner,
    rate=st.floats(0.0, 1.0),
    kind=st.sampled_from(("soft", "hard")),
    names=st.lists(st.sampled_from("abc"), min_size=1, unique=True).map(tuple),
    sizes=st.lists(st.integers(1, 9)).map(tuple),
)
outers = st.builds(
    Outer,
    title=st.text(),
    count=st.integers(min_value=0),
    quick=st.booleans(),
    limit=st.none() | st.floats(0.0, allow_infinity=False),
    inner=inners,
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
)


@given(outers)
def test_build_undoes_as_plain(config: Outer) -> None:
    assert build(Outer, as_plain(config)) == config
    assert build(Outer, json.loads(json.dumps(as_plain(config)))) == config


@pytest.mark.parametrize("cls", [FederationConfig, DataConfig])
def test_silvas_own_defaults_are_allowed(cls: type[Any]) -> None:
    assert build(cls, as_plain(cls())) == cls() == build(cls, {})


@given(st.sampled_from([f.name for f in fields(Outer)]), anything)
def test_any_value_is_accepted_or_named(name: str, value: Any) -> None:
    given_ = {"title": "t", name: value}
    try:
        config = build(Outer, given_, where="run.toml")
    except ConfigError as error:
        assert str(error).startswith(f"run.toml: {name}")
        assert "\n" not in str(error)
    else:
        assert isinstance(getattr(config, name), (type(value), *_accepting(name)))


def _accepting(name: str) -> tuple[type, ...]:
    """Types that a value of another type may turn into: integers to floats, tables to Inner."""
    return {"limit": (float,), "inner": (Inner,)}.get(name, ())


@given(anything)
def test_a_mapping_or_nothing(value: Any) -> None:
    try:
        build(Inner, value)
    except ConfigError:
        return
    assert isinstance(value, dict)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"inner": {"rate": 1.5}}, "inner.rate: 1.5 is out of range; allowed: 0.0 to 1.0"),
        ({"inner": {"rate": float("nan")}}, "inner.rate: nan is not finite"),
        ({"inner": {"rate": 10**400}}, "is not finite"),
        ({"inner": {"rate": "fast"}}, "inner.rate: 'fast' is not a number"),
        ({"inner": {"rate": True}}, "inner.rate: True is not a number"),
        ({"inner": {"kind": "sof"}}, "inner.kind: 'sof' is not allowed; did you mean soft?"),
        ({"inner": {"names": ["a", "z"]}}, "inner.names.1: 'z' is not allowed"),
        ({"inner": {"names": ["a", "a"]}}, "names one twice; choose one or more of a, b, c"),
        ({"inner": {"names": []}}, "inner.names: is empty"),
        ({"inner": {"names": "a"}}, "inner.names: 'a' is not a list"),
        ({"inner": {"sizes": [1, 10]}}, "inner.sizes.1: 10 is out of range; allowed: 1 to 9"),
        ({"inner": 3}, "inner: 3 is not a table; write [inner] and fields"),
        ({"count": 3.0}, "count: 3.0 is not a whole number"),
        ({"count": True}, "count: True is not a whole number"),
        ({"count": -1}, "count: -1 is out of range; allowed: 0 to any"),
        ({"quick": 1}, "quick: 1 is not a truth value"),
        ({"title": 3}, "title: 3 is not text"),
        ({"cuont": 3}, "cuont: unknown field; did you mean count?"),
        ({"rate": 0.5}, "rate: unknown field; did you mean inner.rate?"),
        ({"inner": {"kid": ""}}, "inner.kid: unknown field; did you mean inner.kind?"),
        ({"zzz\n": 3}, "unknown field; known here: title, count, quick, limit, inner"),
        ({"title": ["x" * 1000]}, "..."),
    ],
)
def test_mistakes_name_field_value_and_remedy(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, {"title": "t", **mapping}, where="run.toml")
    assert str(caught.value).startswith("run.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match="title: is missing; give it a value"):
        build(Outer, {})


def test_an_integer_becomes_a_float() -> None:
    rate = build(Inner, {"rate": 1}).rate
    assert (rate, type(rate)) == (1.0, float)


def test_fields_of_unknown_types_are_a_defect() -> None:
    @dataclass(frozen=True)
    class Odd:
        table: dict[str, int] = field(default_factory=dict)

    assert "table" in get_type_hints(Odd)
    with pytest.raises(TypeError, match="does not know"):
        build(Odd, {"table": {}})


def test_paths_lists_every_value() -> None:
    expected = ["title", "count", "quick", "limit"]
    expected += ["inner.rate", "inner.kind", "inner.names", "inner.sizes"]
    assert list(paths(Outer)) == expected


def test_flags_override_the_file_and_leave_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('title = "run"\ncount = 5\n[inner]\nrate = 0.25\nkind = "hard"\n')
    base = read_toml(path)
    merged = overlay(base, {"inner.rate": 0.75, "count": None, "quick": True})
    expected = Outer("run", count=5, quick=True, inner=Inner(rate=0.75, kind="hard"))
    assert build(Outer, merged, where=path) == expected
    assert build(Outer, base) == replace(expected, quick=False, inner=Inner(0.25, "hard"))


def test_a_flag_makes_the_tables_it_needs() -> None:
    assert overlay({}, {"a.b.c": 1, "a.d": 2}) == {"a": {"b": {"c": 1}, "d": 2}}
    with pytest.raises(ConfigError, match="a is not a table"):
        overlay({"a": 3}, {"a.b": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = 1\nb = = 2\n", "not valid TOML: .*line 2"),
        (b"a = 1\nb = '\xff'\n", "line 2 is not UTF-8 text"),
        (b"a = " + b"[" * 20_000, "not valid TOML"),
        (b"a = " + b"9" * 10_000, "not valid TOML"),
        (b"#" * 1001, "larger than 1000 bytes|not valid TOML"),
    ],
)
def test_files_that_are_not_toml(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    limit = 1000 if content.startswith(b"#") else 1 << 20
    with pytest.raises(ConfigError, match=message) as caught:
        read_toml(path, limit)
    assert str(path) in str(caught.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(ConfigError, match="no such file"):
            read_toml(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(content)
    try:
        assert isinstance(read_toml(path), dict)
    except ConfigError as error:
        assert str(path) in str(error)


def test_controls_may_be_none_and_come_back_as_none() -> None:
    config = build(FederationConfig, {"controls": []})
    assert config.controls == ()
    assert build(FederationConfig, as_plain(config)) == config
