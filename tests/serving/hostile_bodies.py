"""Bodies that clients may send to join a forest, and what must hold of every answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CLIENTS = "/admin/v1/forest/clients"


def tries(count: int) -> settings:
    """So many examples against one server, however long each takes."""
    slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, deadline=None, suppress_health_check=slow)


def bodies(
    names: list[str], example: dict[str, Any], values: list[str] | None = None
) -> st.SearchStrategy[bytes]:
    """JSON of objects with these names, bodies that are nearly right, and bytes that are no JSON.

    example: strategies of the fields of one example; values: texts that occur anywhere.
    """
    plain = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
    anything = st.recursive(
        plain | st.sampled_from(values) if values else plain,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["examples", "tune", "x", *names]), inner, max_size=4)
        ),
        max_leaves=8,
    )
    nearly = st.fixed_dictionaries(
        {"examples": st.lists(st.fixed_dictionaries(example), max_size=3)},
        optional={"tune": st.sampled_from([False, None, 1, "leaf"])},
    )
    return (anything | nearly).map(lambda body: json.dumps(body).encode()) | st.binary(max_size=60)


def joins_or_changes_nothing(api: Any, version: Callable[[], int], content: bytes) -> None:
    """Every body is answered, and a refused one leaves the version of the forest as it was."""
    before = version()
    answer = api.post(
        f"{CLIENTS}?client=new-{before}",
        content=content,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code < 500, answer.text
    assert version() == before + (answer.status_code == 200)
