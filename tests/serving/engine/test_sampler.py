"""The sampler against transformers' processors, and its draws against the distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from silva.control.request import SamplingParams
from silva.serving.engine.draw import choose, cuts, uniforms
from silva.serving.engine.sampler import Sampler

VOCAB = 600
GREEDY = SamplingParams(temperature=0.0)


def logits_of(rows: int, seed: int = 0, spread: float = 2.0, vocab: int = VOCAB) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab, generator=draw) * spread


def sample(
    logits: torch.Tensor,
    params: list[SamplingParams],
    positions: list[int] | None = None,
    prompt: list[int] | None = None,
    given: list[int] | None = None,
    masks: dict[int, NDArray[np.bool_]] | None = None,
) -> Any:
    """One step of a fresh sampler; row i has slot i."""
    sampler = Sampler(logits.shape[1], slots=1)
    for slot, one in enumerate(params):
        sampler.put(slot, one, prompt or [], given or [])
    at = np.array(positions or [0] * len(params))
    return sampler.sample(logits, np.arange(len(params)), at, masks)


@pytest.fixture(scope="module")
def processors() -> Any:
    pytest.importorskip("transformers")
    from transformers.generation import logits_process

    return logits_process


@pytest.mark.parametrize("vocab", [VOCAB, 512])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.5, 0, 1.0, 0.0),
        (1.0, 1, 1.0, 0.0),
        (1.0, 40, 1.0, 0.0),
        (1.0, 10_000, 1.0, 0.0),
        (1.0, 0, 0.9, 0.0),
        (2.0, 0, 0.999, 0.0),
        (1.0, 0, 1e-9, 0.0),
        (1.0, 0, 1.0, 0.05),
        (0.7, 40, 0.8, 0.0),
        (1.3, 200, 0.95, 0.02),
        (0.9, 0, 0.5, 0.3),
    ],
)
def test_cuts_are_those_of_transformers(
    processors: Any, vocab: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = logits_of(20, vocab=vocab)
    expected = processors.TemperatureLogitsWarper(temperature)(None, logits.double())
    if top_k:
        expected = processors.TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = processors.TopPLogitsWarper(top_p)(None, expected)
    if min_p:
        expected = processors.MinPLogitsWarper(min_p)(None, expected)
    x = ((logits - logits.amax(1, keepdim=True)) / temperature).numpy()
    least = cuts(x, np.full(20, top_k), np.full(20, top_p), np.full(20, min_p))
    assert np.array_equal(x >= least[:, None], np.isfinite(expected.numpy()))


def test_rows_are_cut_by_their_own_settings() -> None:
    x = logits_of(4).numpy()
    x -= x.max(axis=1, keepdims=True)
    top_k, top_p, min_p = [0, 5, 0, 30], [1.0, 1.0, 0.3, 0.6], [0.0, 0.0, 0.0, 0.1]
    together = cuts(x, np.array(top_k), np.array(top_p), np.array(min_p))
    for row in range(4):
        settings = [np.array(s[row : row + 1]) for s in (top_k, top_p, min_p)]
        assert cuts(x[row : row + 1], *settings) == together[row]
    assert (x[1] >= together[1]).sum() == 5
    assert together[0] == -np.inf


def test_greedy_takes_the_likeliest() -> None:
    logits = logits_of(5)
    draws = sample(logits, [GREEDY] * 5)
    assert draws.tokens == logits.argmax(1).tolist()
    assert draws.logprobs == [None] * 5
    assert not draws.failed.any()


def test_penalties_are_those_of_transformers_and_openai(processors: Any) -> None:
    prompt, given = [3, 4, 4, 5], [5, 6, 6, 6]
    logits = logits_of(3)
    seen = torch.tensor([prompt + given])
    repeated = processors.RepetitionPenaltyLogitsProcessor(1.7)(seen, logits[:1].clone())
    counts = torch.bincount(torch.tensor(given), minlength=VOCAB)
    moved = logits[1] - 0.4 * counts - 0.9 * (counts > 0)
    biased = logits[2].clone()
    biased[7] += 50.0
    biased[8] += 51.0
    expected = torch.stack([repeated[0], moved, biased])
    params = [
        SamplingParams(temperature=0.0, repetition_penalty=1.7),
        SamplingParams(temperature=0.0, frequency_penalty=0.4, presence_penalty=0.9),
        SamplingParams(temperature=0.0, logit_bias=((7, 50.0), (8, 30.0), (8, 21.0))),
    ]
    sampler = Sampler(VOCAB)
    for slot, one in enumerate(params):
        sampler.put(slot, one, prompt, given)
    before = logits.clone()
    edited = sampler._edited(logits.numpy(), np.arange(3), {})
    torch.testing.assert_close(torch.from_numpy(edited), expected)
    assert torch.equal(logits, before)


def test_what_is_given_counts_from_the_next_step_on() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, :3] = torch.tensor([2.0, 1.9, 1.8])
    sampler = Sampler(VOCAB)
    sampler.put(0, SamplingParams(temperature=0.0, presence_penalty=0.5), [0, 1, 2], [])
    tokens = [sampler.sample(logits, np.zeros(1, int), np.array([p])).tokens[0] for p in range(4)]
    assert tokens == [0, 1, 2, 0]
    sampler.put(0, GREEDY, [], [])
    assert sampler.sample(logits, np.zeros(1, int), np.zeros(1, int)).tokens == [0]


def test_many_marks_and_slots_grow() -> None:
    params = SamplingParams(temperature=0.0, frequency_penalty=1.0)
    sampler = Sampler(VOCAB, slots=1)
    sampler.put(70, params, [], list(range(500)) * 2)
    logits = torch.zeros(1, VOCAB)
    assert sampler.sample(logits, np.array([70]), np.array([0])).tokens == [500]
    edited = sampler._edited(logits.numpy(), np.array([70]), {})
    assert np.array_equal(edited[0, :500], np.full(500, -2.0))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_those_of_the_model(temperature: float) -> None:
    logits = logits_of(4)
    expected = logits.double().log_softmax(dim=1)
    common = {"temperature": temperature, "logit_bias": ((9, 100.0),), "top_k": 3}
    params = [SamplingParams(logprobs=n, **common) for n in (None, 0, 1, 20)]  # type: ignore[arg-type]
    draws = sample(logits, params)
    assert draws.tokens == [9] * 4
    assert draws.logprobs[0] is None
    for row, count in ((1, 0), (2, 1), (3, 20)):
        found = draws.logprobs[row]
        assert found.logprob == pytest.approx(expected[row, 9].item(), abs=1e-5)
        best = expected[row].topk(count)
        assert [token for token, _ in found.top] == best.indices.tolist()
        np.testing.assert_allclose([value for _, value in found.top], best.values, atol=1e-5)


def test_masked_tokens_never_come_whatever_their_bias() -> None:
    logits = logits_of(3)
    allowed = np.zeros(VOCAB, np.bool_)
    allowed[[11, 12]] = True
    hot = SamplingParams(logit_bias=((3, 1000.0),))
    draws = sample(logits, [hot, GREEDY, GREEDY], masks={0: allowed, 1: allowed})
    assert draws.tokens[0] in (11, 12)
    assert draws.tokens[1] == (11 if logits[1, 11] > logits[1, 12] else 12)
    assert draws.tokens[2] == logits[2].argmax()


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(), SamplingParams(logprobs=1)])
def test_rows_without_a_possible_token_fail_alone(params: SamplingParams) -> None:
    logits = logits_of(4)
    whole = sample(logits, [params] * 4)
    logits[1, 5] = torch.nan
    logits[2] = -torch.inf
    draws = sample(logits, [params] * 4)
    assert draws.failed.tolist() == [False, True, True, False]
    assert [draws.tokens[i] for i in (0, 3)] == [whole.tokens[i] for i in (0, 3)]


def test_a_draw_depends_on_its_row_seed_and_position_alone() -> None:
    logits = logits_of(6)
    kinds = [
        SamplingParams(seed=-1),
        SamplingParams(seed=2**70 + 3, top_p=0.8),
        GREEDY,
        SamplingParams(seed=5, top_k=9),
        SamplingParams(seed=6, min_p=0.1, temperature=0.6),
        SamplingParams(seed=7, presence_penalty=1.0, logprobs=3),
    ]
    positions = [5, 1, 0, 77, 3, 2]
    together = sample(logits, kinds, positions, [1, 2], [3])
    for row, kind in enumerate(kinds):
        alone = sample(logits[row : row + 1], [kind], positions[row : row + 1], [1, 2], [3])
        assert alone.tokens == together.tokens[row : row + 1]
        assert alone.logprobs == together.logprobs[row : row + 1]
    other = sample(logits_of(200, spread=0.1), [SamplingParams(seed=s) for s in range(200)])
    moved = sample(
        logits_of(200, spread=0.1), [SamplingParams(seed=s) for s in range(200)], [1] * 200
    )
    assert np.mean(np.array(other.tokens) == np.array(moved.tokens)) < 0.1


def test_the_draw_of_a_seed_and_position_never_changes() -> None:
    found = uniforms(np.array([0, 1, 2**63], np.uint64), np.array([0, 7, 1000]))
    assert found.tolist() == [0.6524484863740322, 0.24696520214533768, 0.2820675446317753]


@pytest.mark.parametrize("by", ["seed", "position"])
def test_uniforms_are_uniform(by: str) -> None:
    counter = np.arange(20_000)
    fixed = np.full(20_000, 3)
    seeds, positions = (counter, fixed) if by == "seed" else (fixed, counter)
    u = uniforms(seeds.astype(np.uint64), positions)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.03


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5),
        SamplingParams(top_k=12),
        SamplingParams(top_p=0.7),
        SamplingParams(min_p=0.1, temperature=1.5),
    ],
)
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    logits = logits_of(1, spread=1.5, vocab=300).double()
    x = ((logits - logits.max()) / params.temperature).float().numpy()
    settings = (np.array([params.top_k]), np.array([params.top_p]), np.array([params.min_p]))
    kept = x >= cuts(x, *settings)[:, None]
    p = np.where(kept, np.exp(x.astype(np.float64)), 0.0)[0]
    p /= p.sum()
    rows = 3000
    counts = np.zeros(300)
    sampler = Sampler(300)
    sampler.put(0, params, [], [])
    for start in range(0, 5 * rows, rows):
        batch = logits.float().expand(rows, -1)
        draws = sampler.sample(batch, np.zeros(rows, int), np.arange(start, start + rows))
        counts += np.bincount(draws.tokens, minlength=300)
    assert counts[p == 0].sum() == 0
    common = p * counts.sum() >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(p[common], p[~common].sum()) * counts.sum()
    some = expected > 0
    assert stats.chisquare(observed[some], expected[some]).pvalue > 1e-3


@given(
    u=st.floats(0.0, 1.0, exclude_max=True),
    vocab=st.sampled_from([1, 5, 256, 257, 600, 1024]),
    likely=st.integers(0, 1023),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_choose_inverts_the_sum(u: float, vocab: int, likely: int, spread: float) -> None:
    x = logits_of(1, spread=spread, vocab=vocab).numpy()
    x[0, ::3] = -np.inf
    x[0, likely % vocab] = max(0.0, x.max())
    x -= x.max()
    weights = np.exp(x[0].astype(np.float64))
    token = int(choose(x.copy(), np.array([u]))[0])
    assert weights[token] > 0
    sums = weights.cumsum() / weights.sum()
    assert sums[token] - weights[token] / weights.sum() <= u + 1e-6
    assert u < sums[token] + 1e-6
