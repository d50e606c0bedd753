"""Costs of a calm server from what three kinds of requests took."""

from __future__ import annotations

import pytest
from reality_cases import steps

from silva.reality.calm import Calm, Kind, costs_of, kinds_of
from silva.serving.bench.nouns import Outcome, Planned


def calm(kind: Kind) -> Calm:
    """A server whose every delay is known; the steps are those of `reality_cases`."""
    prefill_s = 0.001 * kind.prompt + 0.003 + 0.0001 * kind.prompt
    transfer_s = 0.004 + 0.00002 * kind.prompt
    inside_s = 0.002 + prefill_s + 0.005
    first_s = 0.001 + inside_s
    tokens_s = [first_s, first_s + transfer_s + 0.012]
    tokens_s += [tokens_s[1] + 0.0115 * n for n in range(1, kind.output - 1)]
    timings: dict[str, float | None] = {
        "queue_ms": 2.0,
        "prefill_ms": prefill_s * 1e3,
        "transfer_ms": transfer_s * 1e3,
        "first_token_ms": inside_s * 1e3,
    }
    planned = Planned(0, 0.0, kind.prompt, kind.output)
    outcome = Outcome(planned, 0.0, 0.0, tokens_s[-1], tokens_s, error="", timings=timings)
    cpu_s = 0.006 + 0.00001 * kind.prompt + 0.0003 * kind.output
    return Calm(kind, [outcome, outcome], cpu_s)


def test_every_cost_is_found() -> None:
    short, long, talkative = (calm(kind) for kind in kinds_of(64, 1024, 2))
    costs = costs_of(steps(), short, long, talkative)
    assert costs.arrive_ms == pytest.approx(1.0)
    assert costs.queue_ms == pytest.approx(2.0)
    assert costs.first_ms == pytest.approx(5.0)
    assert costs.prefill_loop_ms == pytest.approx(3.0)
    assert costs.prefill_loop_token_us == pytest.approx(100.0)
    assert costs.prefill_loop_s(64) == pytest.approx(0.0094)
    assert costs.decode_loop_ms == pytest.approx(0.5)
    assert costs.hand_over_ms == pytest.approx(4.0)
    assert costs.hand_over_token_us == pytest.approx(20.0)
    assert costs.request_cpu_ms == pytest.approx(6.0)
    assert costs.prompt_token_cpu_us == pytest.approx(10.0)
    assert costs.token_cpu_us == pytest.approx(300.0)


def test_what_would_be_less_than_nothing_is_nothing() -> None:
    short, long, talkative = (calm(kind) for kind in kinds_of(64, 1024, 2))
    slow = steps(decode=((1, 10, 900.0, 900.0),), prefill=((64, 0, 900.0, 900.0),))
    costs = costs_of(slow, short, long, talkative)
    assert costs.decode_loop_ms == 0.0
    assert costs.prefill_loop_ms == 0.0


@pytest.mark.parametrize(("chunk", "context"), [(256, 8192), (64, 64), (8, 40), (512, 512)])
def test_kinds_fit_into_one_chunk_and_the_context(chunk: int, context: int) -> None:
    for kind in kinds_of(chunk, context, 3):
        assert 1 <= kind.prompt <= chunk
        assert kind.prompt + kind.output <= context
        assert kind.output >= 2
