"""The simulated server: times that follow from a made-up profile, and what always holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from reality_cases import CALM, SETTINGS, asked, config, profile

from silva.reality.twin import Answered, Asked, Twin
from silva.supernode.profile import Profile


def answers(
    trace: list[Asked], made: Profile | None = None, seed: int | None = None, **changes: object
) -> list[Answered]:
    return Twin(made or profile(), config(**changes), SETTINGS, seed).run(trace)


def under(target_s: float | None, **changes: object) -> Twin:
    """A server that has to hold a target for the time a token."""
    limits = replace(SETTINGS, target_s=target_s)
    return Twin(profile(), config(**changes), limits, seed=None)


def ttft_s(answer: Answered) -> float:
    """From the moment it was due to its first token."""
    return answer.tokens_s[0] - answer.asked.at_s


def tpot_s(answer: Answered) -> float:
    """Mean time of a token after the first."""
    return (answer.tokens_s[-1] - answer.tokens_s[0]) / (len(answer.tokens_s) - 1)


def test_one_request_takes_what_its_steps_take() -> None:
    (answer,) = answers([asked(1.0, 32, 5)])
    assert ttft_s(answer) == pytest.approx(0.032)
    assert len(answer.tokens_s) == 5
    assert tpot_s(answer) == pytest.approx(0.011)


def test_a_long_prompt_is_computed_in_chunks() -> None:
    made = profile(
        prefill=((1, 0, 1.0, 1.0), (64, 0, 64.0, 64.0), (64, 64, 64.0 + 4.096, 70.0)), head_ms=10.0
    )
    (answer,) = answers([asked(0.0, 128, 2)], made)
    # two chunks, the first without a token; pairs of 64 x 64 tokens take 1 us each
    assert ttft_s(answer) == pytest.approx(0.064 - 0.010 + 0.064 + 0.004096)


def test_delays_of_a_calm_server_are_added_where_they_belong() -> None:
    server = replace(CALM, arrive_ms=1.0, queue_ms=2.0, first_ms=4.0, prefill_loop_ms=8.0)
    server = replace(server, hand_over_ms=16.0, hand_over_token_us=1000.0, decode_loop_ms=2.0)
    (answer,) = answers([asked(0.0, 32, 3)], profile(server))
    assert ttft_s(answer) == pytest.approx(0.032 + 0.001 + 0.002 + 0.004 + 0.008)
    phases = answer.phases
    assert phases.joined_s is not None and phases.prefill_done_s is not None
    assert phases.joined_s - phases.prefill_done_s == pytest.approx(0.016 + 0.032)
    assert answer.tokens_s[2] - answer.tokens_s[1] == pytest.approx(0.011 + 0.002)


def test_prompts_wait_for_each_other_and_decode_goes_on_beside() -> None:
    first, second = answers([asked(0.0, 64, 40), asked(0.010, 64, 2, first=500)])
    assert ttft_s(first) == pytest.approx(0.064)
    assert ttft_s(second) == pytest.approx(0.128 - 0.010)
    assert first.tokens_s[5] < second.tokens_s[0]


def test_decode_beside_prefill_is_slower_as_measured() -> None:
    decode = ((1, 10, 11.0, 22.0), (16, 10, 26.0, 52.0))
    made = profile(decode=decode)
    alone, _ = answers([asked(0.0, 16, 4), asked(5.0, 64, 1, first=500)], made)
    beside, _ = answers([asked(0.0, 16, 4), asked(0.020, 64, 1, first=500)], made)
    assert tpot_s(alone) == pytest.approx(0.011)
    assert tpot_s(beside) > 0.015


def test_a_prompt_that_the_cache_has_is_not_computed_again() -> None:
    same = [asked(0.0, 64, 2), asked(5.0, 64, 2)]
    first, second = answers(same)
    assert ttft_s(second) < ttft_s(first) / 2


def test_work_beside_the_engines_slows_them_when_no_core_is_free() -> None:
    busy = replace(CALM, token_cpu_us=20_000.0)
    trace = [asked(0.0, 16, 30), asked(0.0, 16, 30, first=500)]
    trace += [asked(0.1, 64, 1, first=900)]
    calm = answers(trace)
    loaded = answers(trace, profile(busy))
    assert sum(a.tokens_s[-1] for a in loaded) > sum(a.tokens_s[-1] for a in calm)


def test_jitter_is_drawn_from_its_seed() -> None:
    made = profile(decode_jitter=((0.0, 0.5), (1.0, 1.5)))
    trace = [asked(0.0, 16, 50)]
    (one,), (again,), (other,) = (answers(trace, made, seed) for seed in (1, 1, 2))
    assert one.tokens_s == again.tokens_s != other.tokens_s
    assert tpot_s(one) == pytest.approx(0.011, rel=0.2)


def test_ratios_are_straight_between_what_was_measured() -> None:
    made = profile(decode_jitter=((0.25, 0.9), (0.75, 1.1)))
    world = Twin(made, config(), SETTINGS, seed=1)
    drawn = sorted(world.drawn("decode") for _ in range(400))
    assert (drawn[0], drawn[-1]) == pytest.approx((0.9, 1.1))
    assert drawn[100] == pytest.approx(0.9, abs=0.05)
    assert drawn[200] == pytest.approx(1.0, abs=0.05)
    assert world.drawn("prefill") == 1.0


def test_the_hub_hears_what_a_target_lets_in_and_keeps_back_what_is_more() -> None:
    # Four requests teach what one more of them takes, and go on while eight others come.
    early = [asked(0.1 * number, 16, 300, 1000 * number) for number in range(4)]
    late = [asked(2.0, 16, 20, 1000 * number) for number in range(4, 12)]
    free, held = under(None), under(0.0165)
    peer = held.hub.peers["decode-1"]
    assert peer.load.most_running == SETTINGS.max_running
    first = [max(map(ttft_s, world.run([*early, *late])[4:])) for world in (free, held)]
    # Prompts take 16 ms each; those that are kept back are not begun.
    assert first[0] < 0.3
    assert first[1] > 0.5
    assert peer.admission is not None
    assert 4 < peer.load.most_running == peer.admission.batch < 8
    assert free.hub.peers["decode-1"].load.most_running == SETTINGS.max_running


@hypothesis_settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 1.0), st.integers(1, 200), st.integers(1, 20)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 2),
    st.integers(0, 1),
    st.sampled_from([None, 0.0125]),
)
def test_every_request_is_answered_whole_and_in_order(
    rows: list[tuple[float, int, int]], peers: int, cache: int, target_s: float | None
) -> None:
    trace = [asked(at, prompt, out, 1000 * n) for n, (at, prompt, out) in enumerate(sorted(rows))]
    pools = {"prefill": peers, "decode": peers, "cache": cache}
    for answer in under(target_s, pools=pools).run(trace):
        assert len(answer.tokens_s) == answer.asked.output
        assert answer.tokens_s == sorted(answer.tokens_s)
        assert ttft_s(answer) >= 0.001 * len(answer.asked.prompt) * 0.999
