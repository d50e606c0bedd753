"""How frequent classes are with clusters and clients, and what a version file may say of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.adapters.label_priors import LabelPriors, even, frequencies, label_priors
from silva.errors import ForestError

PRIORS = LabelPriors({"cluster-0": [0.7, 0.2, 0.1], "cluster-2": [0.1, 0.1, 0.8]}, 2.0)


def test_frequencies_lie_between_prior_and_counts() -> None:
    measures = np.array([0.7, 0.2, 0.1])
    counts = np.array([0.0, 4.0, 0.0])
    assert frequencies(counts, measures, 0.0) == pytest.approx([0, 1, 0])
    assert frequencies(np.zeros(3), measures, 2.0) == pytest.approx(measures)
    assert frequencies(counts, measures, 4.0) == pytest.approx([0.35, 0.6, 0.05])


def test_groups_members_and_clients_alone() -> None:
    """By hand: p = (n + a m) / (|n| + a)."""
    assert PRIORS.group("cluster-0", 3) == pytest.approx([0.7, 0.2, 0.1])
    own = np.array([0.0, 1.0, 1.0])
    assert PRIORS.member("cluster-0", own) == pytest.approx(np.array([1.4, 1.4, 1.2]) / 4)
    assert PRIORS.alone(own) == pytest.approx(np.array([2, 5, 5]) / 12)
    for unknown in (None, "cluster-7"):
        assert PRIORS.group(unknown, 3) == pytest.approx(even(3))


def test_what_is_written_is_read_again() -> None:
    assert label_priors(json.loads(json.dumps(PRIORS.as_plain())), 3, "here") == PRIORS


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"groups": {"cluster-0": [0.5, 0.5]}}, "groups"),
        ({"groups": {"cluster-0": [0.5, 0.5, 0.0]}}, "groups"),
        ({"groups": {"cluster-0": [0.5, 0.5, 0.5]}}, "groups"),
        ({"groups": {"cluster-0": [0.5, 0.5, float("nan")]}}, "groups"),
        ({"groups": {"cluster-0": "123"}}, "groups"),
        ({"groups": [[0.5, 0.3, 0.2]]}, "groups"),
        ({"of_clients": 0}, "of_clients"),
        ({"of_clients": "2"}, "of_clients"),
        ({"more": 1}, "more"),
    ],
)
def test_a_bad_field_is_named(change: dict[str, object], field: str) -> None:
    with pytest.raises(ForestError, match=field):
        label_priors(PRIORS.as_plain() | change, 3, "here")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(PRIORS.as_plain(), anything)) | anything)
def test_whatever_a_file_says_is_priors_or_an_error(plain: object) -> None:
    try:
        found = label_priors(plain, 3, "here")
    except ForestError:
        return
    for cluster in (None, *found.groups):
        assert np.isfinite(np.log(found.member(cluster, np.zeros(3)))).all()
