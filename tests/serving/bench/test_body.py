"""What events of an answer come to, whatever a server says in them."""

from __future__ import annotations

from typing import Any

import pytest

from silva.serving.bench.body import Answer
from silva.serving.bench.nouns import Outcome, Planned


def taken(*usages: Any) -> Outcome:
    outcome = Outcome(Planned(0, 0.0, 12, 5), 0.0)
    answer = Answer(outcome)
    for usage in usages:
        answer.take({"choices": [], "usage": usage}, 1.0)
    return outcome


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "7", None, 10**400, [7]])
def test_counts_that_are_none_change_nothing(wrong: Any) -> None:
    details = {"cached_tokens": wrong}
    said = {
        "prompt_tokens": wrong,
        "completion_tokens": wrong,
        "prompt_tokens_details": details,
    }
    proper = {
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    found = taken(said)
    assert (found.prompt_tokens, found.completion_tokens, found.cached_tokens) == (None,) * 3
    found = taken(proper, said)
    assert (found.prompt_tokens, found.completion_tokens, found.cached_tokens) == (12, 5, 8)
