from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.data.spec import KNOWN, PartitionSpec, parse_spec
from silva.errors import PartitionError

COUNTS = st.integers(1, 1_000_000)
ALPHAS = st.floats(1e-3, 1e6)
WORDS = st.from_regex(r"[A-Za-z0-9_.+-]{1,64}", fullmatch=True)


@st.composite
def specs(draw: st.DrawFn) -> PartitionSpec:
    name = draw(st.sampled_from(sorted(KNOWN)))
    kinds = {"count": COUNTS, "alpha": ALPHAS, "word": WORDS}
    kinds["words"] = st.lists(WORDS, max_size=5).map(tuple)
    return PartitionSpec(name, {p.name: draw(kinds[p.kind]) for p in KNOWN[name]})


@given(specs())
def test_text_and_spec_are_the_same_thing(spec: PartitionSpec) -> None:
    text = str(spec)
    if len(text) <= 500:
        assert parse_spec(text) == spec


def test_arguments_by_position_by_key_and_by_default() -> None:
    spec = parse_spec(" sc_dir( 2 , alpha = 3 ) ")
    assert spec.values == {"n_super": 2, "alpha": 3.0, "groups": 0}
    assert str(spec) == "sc_dir(2,3.0)"
    assert str(parse_spec("sc_dir(alpha=3,n_super=2,groups=6)")) == "sc_dir(2,3.0,groups=6)"
    assert parse_spec("planted(2,plain,edges)").styles == ("plain", "edges")
    assert parse_spec("by_folder").column == "client"
    assert parse_spec("by_column(site)").column == "site"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "not name(value"),
        ("dirichlet(0.3)", "no partition is called 'dirichlet'"),
        ("gl_dir", "alpha is missing"),
        ("gl_dir()", "alpha is missing"),
        ("gl_dir(0)", "not a number in"),
        ("gl_dir(nan)", "not a number in"),
        ("gl_dir(1e999)", "not a number in"),
        ("gl_dir(-1)", "not a number in"),
        ("gl_dir(1,2)", "one argument too many"),
        ("gl_dir(beta=1)", "one argument too many"),
        ("gl_dir(alpha=1,alpha=2)", "given twice"),
        ("sc_dir(2,3,groups=-1)", "not a whole number"),
        ("sc_dir(n_super=2,3)", "follows an argument with one"),
        ("patho_shards(0)", "not a whole number in [1"),
        ("patho_shards(2.5)", "not a whole number"),
        ("patho_shards(٣)", "neither a value"),
        ("by_folder(x)", "one argument too many"),
        ("by_column(a b)", "neither a value"),
        ("gl_dir(__import__('os'))", "neither a value"),
        ("gl_dir(0.3", "not name(value"),
        ("x" * 100_000, "not name(value"),
    ],
)
def test_a_mistake_names_the_spec_and_lists_the_known(text: str, cause: str) -> None:
    with pytest.raises(PartitionError) as caught:
        parse_spec(text)
    line = str(caught.value)
    assert cause in line and text[:40] in line and "sc_dir(n_super,alpha,groups=0)" in line
    assert len(line) < 600 and "\n" not in line


@given(st.text(max_size=60) | st.from_regex(r"[a-z_]{3,9}\([0-9a-z=,.( )]*\)?"))
def test_any_text_is_a_spec_or_a_partition_error(text: str) -> None:
    with contextlib.suppress(PartitionError):
        parse_spec(text)
