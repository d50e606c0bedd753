"""The summary's numbers against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from silva.federation.record import Accuracy, Clustering, Perplexity, Round, Routed, RunRecord
from silva.federation.summary import latest, spread, stage_seconds, summarise
from silva.federation.tables import make_tables

NOTHING = {
    "mean": None,
    "p10": None,
    "std": None,
    "tail_mean10": None,
    "min": None,
    "balanced_mean": None,
}


def measured(client: str, tier: str, correct: int, *, seen: bool = True, at: int = 1) -> Accuracy:
    return Accuracy(client, seen, tier, "root", at, correct, 10, balanced=correct / 20)


def aggregated(stage: str, up: int, down: int, seconds: float) -> Round:
    return Round(stage, -1, 1, 2, 0, 0, 1.0, 0.1, 0.0, up, down, seconds, 0.5 * seconds)


def test_spread_equals_hand_computed_numbers() -> None:
    values = [k / 10 for k in range(1, 11)]  # 0.1 ... 1.0, shuffled below
    got = spread(values[::2] + values[1::2])
    assert got["mean"] == pytest.approx(0.55)
    assert got["p10"] == pytest.approx(0.19)  # position 0.9 between 0.1 and 0.2
    assert got["std"] == pytest.approx((99 / 12) ** 0.5 / 10)  # of a population
    assert got["tail_mean10"] == pytest.approx(0.1)
    assert got["min"] == pytest.approx(0.1)


def test_the_tail_is_a_tenth_of_the_clients_rounded_up() -> None:
    assert spread([k / 10 for k in range(1, 10)] + [0.0, 0.9])["tail_mean10"] == pytest.approx(0.05)
    assert spread([0.4])["tail_mean10"] == pytest.approx(0.4)


def test_the_last_measurement_of_each_client_counts() -> None:
    rows = [
        measured("a", "root", 2, at=1),
        measured("b", "root", 4, at=1),
        measured("a", "root", 8, at=2),
    ]
    tier = summarise(RunRecord(measurements=rows))["tiers"]["root"]
    assert tier["mean"] == pytest.approx(0.6)
    assert tier["min"] == pytest.approx(0.4)
    assert tier["balanced_mean"] == pytest.approx(0.3)


def test_seen_and_unseen_clients_are_kept_apart() -> None:
    rows = [
        measured("a", "root", 2),
        measured("a", "head_only", 3),
        measured("u", "root", 6, seen=False),
        measured("u", "zero_leaf", 7, seen=False),
        measured("v", "zero_leaf", 9, seen=False),
        measured("v", "head_only", 10, seen=False),
    ]
    summary = summarise(RunRecord(measurements=rows))
    assert summary["tiers"]["root"]["mean"] == pytest.approx(0.2)
    assert summary["control"]["head_only"]["mean"] == pytest.approx(0.3)
    assert summary["unseen"] == {
        "root": pytest.approx(0.6),
        "zero_leaf": pytest.approx(0.8),
        "after_1": None,
        "after_5": None,
    }
    assert summary["clients"] == {"seen": 1, "unseen": 2}


def test_leaves_of_other_lengths_are_shown_by_their_epochs() -> None:
    epochs = (12, 1, 3)
    rows = [measured("u", f"after_{n}", n, seen=False) for n in epochs]
    record = RunRecord(measurements=rows)
    unseen = summarise(record)["unseen"]
    assert list(unseen) == ["root", "zero_leaf", "after_1", "after_3", "after_5", "after_12"]
    assert (unseen["after_3"], unseen["after_5"]) == (pytest.approx(0.3), None)
    titles = [row[0] for row in make_tables(record)["unseen"].rows]
    assert titles == ["leaf after 1 epoch", "leaf after 3 epochs", "leaf after 12 epochs"]


def test_replies_that_were_not_used_are_counted_over_all_stages() -> None:
    rounds = [replace(aggregated("root", 1, 1, 1.0), rejected=2, dropped=n) for n in (0, 3)]
    assert summarise(RunRecord(rounds=rounds))["replies"] == {"rejected": 4, "lost": 3}


def test_every_control_that_was_measured_is_in_the_summary() -> None:
    rows = [measured("a", tier, n) for n, tier in enumerate(("local_lora", "root", "local_pair"))]
    control = summarise(RunRecord(measurements=rows))["control"]
    assert list(control) == ["head_only", "local_lora", "local_pair"]
    assert control["head_only"] == NOTHING
    assert control["local_pair"]["mean"] == pytest.approx(0.2)


def test_an_empty_record_gives_nulls_in_the_full_schema() -> None:
    summary = summarise(RunRecord())
    assert summary["tiers"] == {"root": NOTHING, "cluster": NOTHING, "leaf": NOTHING}
    assert summary["control"] == {"head_only": NOTHING}
    assert set(summary["unseen"].values()) == {None}
    assert summary["clusters"] == 1
    assert summary["ari"] is None
    assert summary["routing_agreement"] is None
    assert summary["bytes"] == {"root": 0, "cluster": 0, "leaf": 0}
    assert summary["seconds"] == {"root": None, "cluster": None, "leaf": None}


def test_clients_without_test_images_have_no_accuracy() -> None:
    empty = Accuracy("a", True, "root", "root", 1, 0, 0)
    assert latest([empty], seen=True) == {}
    assert summarise(RunRecord(measurements=[empty]))["tiers"]["root"]["mean"] is None


def test_clusters_are_counted_by_who_is_in_them() -> None:
    found = Clustering(["a", "b", "c"], [0, 1, 0], [], [], 2, "B_ema", "gap", ari=0.25)
    summary = summarise(RunRecord(clustering=found))
    assert summary["clusters"] == 2
    assert summary["ari"] == 0.25


def test_bytes_and_seconds_per_stage() -> None:
    record = RunRecord(
        rounds=[
            aggregated("root", 10, 20, 1.5),
            aggregated("root", 10, 20, 2.5),
            aggregated("cluster", 5, 7, 1.0),
        ],
        seconds={"cluster": 9.0, "clustering": 0.5},
    )
    summary = summarise(record)
    assert summary["bytes"] == {"root": 60, "cluster": 12, "leaf": 0, "clustering": 0}
    assert summary["seconds"] == {"root": 4.0, "cluster": 9.0, "leaf": None, "clustering": 0.5}
    assert stage_seconds(record, "unheard-of") is None


def test_routing_agreement_is_the_share_of_equal_choices() -> None:
    routed = [Routed(f"u-{i}", i % 2, 0, [0.5, 0.1], [1.0, 2.0]) for i in range(4)]
    assert summarise(RunRecord(routed=routed))["routing_agreement"] == 0.5


def test_where_less_is_better_the_tail_is_the_other_end() -> None:
    rows = [
        Perplexity(f"c-{n}", True, "root", "root", 1, loss=math.log(n + 2), total=1, bytes=2)
        for n in range(10)
    ]
    record = RunRecord(figure="perplexity", measurements=list(rows))
    summary = summarise(record)
    root = summary["tiers"]["root"]
    assert summary["figure"] == "perplexity" and root["mean"] == pytest.approx(6.5)
    assert root["p10"] < root["mean"] < root["p90"]
    assert root["tail_mean10"] == root["max"] == pytest.approx(11)
    bits = sum(math.log2(n + 2) / 2 for n in range(10)) / 10
    assert root["bits_per_byte_mean"] == pytest.approx(bits)
    assert RunRecord.from_dict(record.as_dict()) == record


def test_a_state_from_before_there_were_figures_holds_accuracies() -> None:
    row = Accuracy("a", True, "root", "root", 1, 3, 4)
    plain = RunRecord(measurements=[row]).as_dict()
    del plain["figure"]
    plain["accuracies"] = plain.pop("measurements")
    assert RunRecord.from_dict(plain).measurements == [row]


def test_a_perplexity_that_no_number_holds_is_the_largest() -> None:
    row = Perplexity("a", True, "root", "root", 1, loss=1e6, total=1, bytes=0)
    assert math.isfinite(row.value) and math.isfinite(row.second)
