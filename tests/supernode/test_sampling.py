"""Samples of queues and memory: what they add up, and what stays when they become too many."""

from __future__ import annotations

import pytest

from silva.control.state import Counts
from silva.supernode import sampling
from silva.supernode.records import Sample
from silva.supernode.sampling import Sampler


def counts(waiting: int, used: int) -> Counts:
    """An instance of 100 blocks."""
    return Counts(
        waiting=waiting,
        running=2,
        decoding=1,
        coming=1,
        held=3,
        blocks=100,
        blocks_free=100 - used,
        blocks_used=used,
        blocks_kept=0,
    )


def test_a_sample_is_over_all_instances() -> None:
    samples: list[Sample] = []
    Sampler(samples, 1.0).take(0.5, [counts(1, 10), counts(2, 40)], 5)
    assert samples == [Sample(0.0, waiting=8, running=4, coming=8, kv_share=0.25)]


def test_without_any_instance_no_memory_is_taken() -> None:
    samples: list[Sample] = []
    Sampler(samples, 1.0).take(0.5, [], 5)
    assert samples == [Sample(0.0, waiting=5, running=0, coming=0, kv_share=0.0)]


def test_peaks_of_queue_and_memory_stay_when_samples_become_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "MAX_SAMPLES", 8)
    samples: list[Sample] = []
    sampler = Sampler(samples, 1.0)
    # The fullest moment is beside one with a longer queue, the longest queue beside a fuller one.
    rows = [(0, 1), (7, 2), (3, 90), (4, 10), (9, 5), (0, 6), (1, 1), (1, 3)]
    for second, (waiting, used) in enumerate(rows):
        sampler.take(float(second), [counts(waiting, used)], 0)
    assert [(each.time_s, each.waiting, each.kv_share) for each in samples] == [
        (1.0, 7, 0.02),
        (3.0, 4, 0.9),
        (4.0, 9, 0.06),
        (6.0, 1, 0.03),
    ]
    assert sampler.due_s == 8.0
    sampler.take(10.0, [counts(0, 0)], 0)
    assert [each.time_s for each in samples[4:]] == [8.0, 10.0]
