"""Stop strings: whatever the pieces, the stream is the text cut at the first of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.serving.api.stop import StopText

words = st.text("ab\u00e9", min_size=1, max_size=5)


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The plain truth: the shortest beginning that ends with a stop string, without it."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def streamed(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    stop, shown = StopText(stops), ""
    for piece in pieces:
        certain, stopped = stop.push(piece)
        shown += certain
        if stopped:
            return shown, True
    return shown + stop.finish(), False


@given(st.lists(st.text("ab\u00e9", max_size=6), max_size=12), st.lists(words, max_size=4))
def test_any_pieces_give_the_text_cut_at_the_first_stop(
    pieces: list[str], stops: list[str]
) -> None:
    assert streamed(pieces, stops) == cut("".join(pieces), stops)


@given(st.text("ab", max_size=40), st.lists(words, min_size=1, max_size=4))
def test_no_more_is_held_back_than_may_become_a_stop(text: str, stops: list[str]) -> None:
    stop, shown = StopText(stops), ""
    for end, character in enumerate(text, 1):
        certain, stopped = stop.push(character)
        shown += certain
        if stopped:
            return
        held = text[len(shown) : end]
        assert text[:end].startswith(shown)
        assert not held or any(s.startswith(held) for s in stops)


def test_the_longest_of_those_complete_at_once() -> None:
    assert streamed(["xabc"], ["c", "abc"]) == ("x", True)


def test_what_is_complete_first_wins_over_what_began_first() -> None:
    assert streamed(["abcd", "e"], ["abcde", "cd"]) == ("ab", True)


def test_an_overlapping_beginning_is_not_lost() -> None:
    assert streamed(["aa", "ab"], ["aab"]) == ("a", True)


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopText([""])
