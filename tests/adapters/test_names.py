from __future__ import annotations

import pytest

from silva.adapters.names import check_client_name, check_cluster_name, unknown_client
from silva.errors import ForestError, UnknownClientError


@pytest.mark.parametrize("name", ["c-17", "a", "0", "x" * 64, "a.b_c-d", "clusters", "rooted"])
def test_allowed_client_names(name: str) -> None:
    assert check_client_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "../x", "a/b", "A", ".a", "-a", "x" * 65, "a\n", "ä", "a b", "a\0", "base", "root",
     "cluster-0", "cluster-", "cluster-x"],
)  # fmt: skip
def test_refused_client_names(name: str) -> None:
    with pytest.raises(ForestError):
        check_client_name(name)


@pytest.mark.parametrize("name", ["cluster-01", "cluster-", "cluster-x", "cluster--1", "c-1"])
def test_refused_cluster_names(name: str) -> None:
    assert check_cluster_name("cluster-10") == "cluster-10"
    with pytest.raises(ForestError):
        check_cluster_name(name)


def test_unknown_client_names_those_near() -> None:
    error = unknown_client("c-17x", ["c-17", "c-18", "zebra"], "forest")
    assert isinstance(error, UnknownClientError)
    assert "c-17" in error.remedy and "zebra" not in error.remedy
    assert "\n" not in str(unknown_client("a\nb" * 1000, ["c-17"], "forest"))
