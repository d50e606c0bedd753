"""Tokens to text: incomplete characters, stop strings, end tokens and the records of tokens."""

from __future__ import annotations

from api_fakes import EOS, FakeText
from hypothesis import given
from hypothesis import strategies as st

from silva.control.request import FinishReason, Output, TokenLogprob
from silva.serving.api.answer import Answer, Piece


def answer(stops: tuple[str, ...] = (), *, records: bool = True) -> Answer:
    return Answer(FakeText().decoder(skip_special=True), stops, [EOS], keeps_records=records)


def output(tokens: bytes | list[int], finish: FinishReason | None = None) -> Output:
    logprobs = tuple(TokenLogprob(-float(t)) for t in tokens)
    return Output("r", tuple(tokens), logprobs, finish)


def said(found: Answer, *outputs: Output) -> list[Piece]:
    pieces = []
    for each in outputs:
        pieces.append(found.push(each))
        if found.finish:
            break
    return pieces


def test_a_character_comes_when_it_is_complete() -> None:
    pieces = said(answer(), output(b"\xc3"), output(b"\xa9"), output([EOS], "stop"))
    assert [p.text for p in pieces] == ["", "é", ""]
    assert [[r.token for r in p.records] for p in pieces] == [[0xC3], [0xA9], [EOS]]
    assert pieces[-1].records[0].ends


def test_with_stop_strings_records_wait_for_their_text() -> None:
    pieces = said(answer(("END",)), output(b"E"), output(b"N"), output(b"x"), output(b"", "length"))
    assert [[r.token for r in p.records] for p in pieces] == [[], [], list(b"ENx"), []]


def test_an_incomplete_character_at_the_end_is_replaced() -> None:
    assert said(answer(), output(b"a\xc3", "length"))[0].text == "a\ufffd"


def test_the_end_token_counts_and_is_not_shown() -> None:
    found = answer()
    assert said(found, output([97, EOS], "stop"))[0].text == "a"
    assert (found.tokens, found.finish) == (2, "stop")


def test_a_token_that_ends_nothing_is_shown() -> None:
    """The grammar ended this answer; its last token is text."""
    assert said(answer(), output(b"a}", "stop"))[0].text == "a}"


def test_a_stop_string_ends_the_answer_and_what_follows_is_dropped() -> None:
    found = answer(("END",))
    pieces = said(found, output(b"abE"), output(b"N"), output(b"Dxyz"), output(b"more"))
    assert [p.text for p in pieces] == ["ab", "", ""]
    assert pieces[-1].finish == "stop"
    assert [r.token for p in pieces for r in p.records] == list(b"ab")
    assert found.tokens == 5


def test_a_stop_string_in_the_tail_of_the_last_character() -> None:
    assert said(answer(("\ufffd",)), output(b"ab\xc3", "length"))[0] == Piece(
        "ab", said(answer(), output(b"ab"))[0].records, "stop"
    )


@given(
    st.text("abé\U0001f600", max_size=12),
    st.lists(st.text("abé\U0001f600", min_size=1, max_size=3), max_size=3),
    st.lists(st.integers(1, 5), min_size=48, max_size=48),
)
def test_pieces_make_the_whole(text: str, stops: list[str], sizes: list[int]) -> None:
    encoded = text.encode()
    whole = said(answer(tuple(stops)), output(encoded, "length"))[0]
    outputs = []
    for size in sizes:
        outputs.append(output(encoded[:size], None if encoded[size:] else "length"))
        encoded = encoded[size:]
        if not encoded:
            break
    pieces = said(answer(tuple(stops)), *outputs)
    assert "".join(p.text for p in pieces) == whole.text
    assert [r for p in pieces for r in p.records] == list(whole.records)
    assert pieces[-1].finish == whole.finish
    assert sum(p.finish is not None for p in pieces) == 1


def test_records_are_kept_only_when_wanted() -> None:
    assert said(answer(records=False), output(b"ab", "length"))[0].records == ()
