"""Grammars over the tokens of stories260k's tokenizer, or over a tiny one made here."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("llguidance")

from llguidance import LLMatcher
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from silva.serving.engine import grammar as module
from silva.serving.engine.grammar import GrammarError, Grammars, Matcher

VOCAB = 300
END = 256
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "n": {"type": "integer"}},
    "required": ["name", "n"],
    "additionalProperties": False,
}


def byte_tokenizer() -> str:
    """A tokenizer.json with a token for each byte, as GPT-2 writes them, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: number for number, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer.to_str()


TOKENIZER = Tokenizer.from_str(byte_tokenizer())


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(byte_tokenizer(), VOCAB, [END])


def schema(value: object = SCHEMA) -> str:
    return LLMatcher.grammar_from_json_schema(json.dumps(value))


def tokens_of(text: str) -> list[int]:
    return TOKENIZER.encode(text).ids


def write(matcher: Matcher, seed: int, limit: int = 400) -> list[int]:
    """Random allowed tokens until the answer ends."""
    draw = np.random.default_rng(seed)
    tokens: list[int] = []
    while not matcher.ended and len(tokens) < limit:
        token = int(draw.choice(np.flatnonzero(matcher.allowed())))
        matcher.take([token])
        tokens.append(token)
    assert matcher.ended
    return tokens


@pytest.mark.parametrize("seed", range(5))
def test_random_tokens_under_a_schema_are_json_of_it(grammars: Grammars, seed: int) -> None:
    answer = json.loads(TOKENIZER.decode(write(grammars.matcher(schema()), seed)))
    assert set(answer) == {"name", "n"}
    assert len(answer["name"]) <= 5
    assert isinstance(answer["n"], int)


def test_any_json_object_and_a_regex(grammars: Grammars) -> None:
    matcher = grammars.matcher(schema({"type": "object"}))
    assert not matcher.allowed()[tokens_of("[")[0]]
    matcher.take(tokens_of('{"a": [1, null]}'))
    assert matcher.ended
    pattern = grammars.matcher(LLMatcher.grammar_from_regex("[ab]{3}"))
    assert set(TOKENIZER.decode(write(pattern, 0))) <= {"a", "b"}


def test_the_end_token_is_allowed_where_the_answer_may_end(grammars: Grammars) -> None:
    matcher = grammars.matcher(LLMatcher.grammar_from_regex("a+"))
    assert not matcher.allowed()[END]
    matcher.take(tokens_of("aa"))
    assert not matcher.ended
    assert np.flatnonzero(matcher.allowed()).tolist() == sorted([tokens_of("a")[0], END])
    matcher.take([END])
    assert matcher.ended


def test_tokens_that_the_tokenizer_does_not_know_never_come(grammars: Grammars) -> None:
    allowed = grammars.matcher(LLMatcher.grammar_from_regex("(?s:.*)")).allowed()
    assert allowed.shape == (VOCAB,)
    assert not allowed[END + 1 :].any()


def test_a_take_over_goes_on_where_the_tokens_end(grammars: Grammars) -> None:
    text = '{"name": "ab", "n": 1'
    first = grammars.matcher(schema())
    for token in tokens_of(text):
        first.take([token])
    second = grammars.matcher(schema(), tokens_of(text))
    assert np.array_equal(first.allowed(), second.allowed())
    with pytest.raises(GrammarError, match="cannot be followed"):
        grammars.matcher(schema(), tokens_of("[1]"))


def test_matchers_of_one_grammar_are_independent(grammars: Grammars) -> None:
    one, other = grammars.matcher(schema()), grammars.matcher(schema())
    one.take(tokens_of('{"'))
    assert not np.array_equal(one.allowed(), other.allowed())
    with pytest.raises(GrammarError):
        one.take(tokens_of("!"))
    other.take(tokens_of('{"'))


@pytest.mark.parametrize(
    "grammar",
    [
        "garbage",
        "{}",
        '{"grammars": []}',
        '{"grammars": [{"json_schema": {"type": "no such type"}}]}',
        LLMatcher.grammar_from_regex("(a"),
        LLMatcher.grammar_from_lark("start: start"),
    ],
)
def test_what_is_no_grammar_is_refused(grammars: Grammars, grammar: str) -> None:
    with pytest.raises(GrammarError) as caught:
        grammars.matcher(grammar)
    assert len(str(caught.value)) < 500


def test_too_long_a_grammar_is_refused(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GRAMMAR_BYTES", 10)
    with pytest.raises(GrammarError, match="longer than 10 bytes"):
        grammars.matcher(schema({"type": "boolean"}))


def test_few_grammars_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    own = Grammars(byte_tokenizer(), VOCAB, [END])
    for pattern in "abcab":
        assert not own.matcher(LLMatcher.grammar_from_regex(pattern)).ended
    assert len(own._known) == 2


def wander(matcher: Matcher, seed: int, length: int = 60) -> list[int]:
    """So many random letters that are allowed."""
    draw, tokens = np.random.default_rng(seed), []
    for _ in range(length):
        letters = np.flatnonzero(matcher.allowed()[:END])
        tokens.append(int(draw.choice(letters)))
        matcher.take(tokens[-1:])
    return tokens


def test_the_states_that_other_answers_have_made_are_no_answers_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each answer makes other states of this one, of which there are 2^20.
    hungry = LLMatcher.grammar_from_regex("[ab]*a[ab]{20}")
    alone = Grammars(byte_tokenizer(), VOCAB, [END])
    said = [wander(alone.matcher(hungry), seed) for seed in range(12)]
    monkeypatch.setattr(module, "MAX_LEXER_STATES", 400)
    few = Grammars(byte_tokenizer(), VOCAB, [END])
    first = few._compiled(hungry)
    early = few.matcher(hungry)
    assert [wander(few.matcher(hungry), seed) for seed in range(12)] == said
    assert few._known.get(hungry) is not first
    # one that has begun before goes on, too
    assert wander(early, 0) == said[0]


def test_one_answer_that_makes_too_many_states_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LEXER_STATES", 400)
    few = Grammars(byte_tokenizer(), VOCAB, [END])
    with pytest.raises(GrammarError, match="too many states"):
        wander(few.matcher(LLMatcher.grammar_from_regex("[ab]*a[ab]{20}")), 0, 2000)
    # what it used up is not missed by the next
    wander(few.matcher(LLMatcher.grammar_from_regex("[ab]*a[ab]{20}")), 1)


def test_a_tokenizer_that_is_none_is_refused_with_the_first_grammar() -> None:
    none = Grammars("{}", VOCAB, [END])
    for _ in range(2):
        with pytest.raises(GrammarError, match="tokenizer"):
            none.matcher(LLMatcher.grammar_from_regex("a"))


def test_the_tokens_are_read_once_and_not_before_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    kept = Tokenizer.from_str
    monkeypatch.setattr(
        "tokenizers.Tokenizer",
        type("Counted", (), {"from_str": lambda text: read.append(text) or kept(text)}),
    )
    own = Grammars(byte_tokenizer(), VOCAB, [END])
    assert read == []
    with ThreadPoolExecutor(4) as pool:
        patterns = map(LLMatcher.grammar_from_regex, "abcdef")
        assert not any(m.ended for m in pool.map(own.matcher, patterns))
    assert len(read) == 1
