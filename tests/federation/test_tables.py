"""Tables hold what the record holds, as data and as Markdown that keeps its shape."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from silva.federation.record import Accuracy, Clustering, Round, Routed, RunFacts, RunRecord
from silva.federation.tables import Table, make_tables, tables_as_dict, tables_as_markdown

FACTS = RunFacts({}, 3, {"silva": "1.0", "numpy": "2.0"}, 1, "2 cores", "flowers", "planted(2)")


def measured(client: str, tier: str, correct: int, *, seen: bool = True) -> Accuracy:
    return Accuracy(client, seen, tier, "root", 1, correct, 8)


def clustering() -> Clustering:
    return Clustering(
        clients=["a", "b"],
        labels=[0, 1],
        distances=[[0.0, 0.5], [0.5, 0.0]],
        eigenvalues=[0.0, 0.123456789, 1.5],
        k=2,
        feature="B_ema",
        rule="gap",
        scores=[(2, 1.5), (3, 0.5)],
        ari=0.875,
        alternatives=[
            {"feature": "B_ema", "rule": "gap", "k": 2, "ari": 0.875},
            {"feature": "dB_ema", "rule": "eigengap", "k": 1, "ari": None},
        ],
    )


def table_lines(markdown: str) -> list[str]:
    return [line for line in markdown.splitlines() if line.startswith("|")]


def test_tiers_are_rows_in_the_order_of_the_path() -> None:
    rows = [measured("a", tier, 4) for tier in ("leaf", "root", "head_only")]
    table = make_tables(RunRecord(measurements=rows))["tiers"]
    names = [row[0] for row in table.rows]
    assert names == ["frozen root + own head", "root", "root + cluster + leaf"]
    assert table.as_dict()["rows"][1]["mean"] == pytest.approx(0.5)
    assert "| root | 1 | 50.0 |" in table.markdown()


def test_one_cluster_is_no_tier_of_its_own() -> None:
    rows = [measured("a", tier, 4) for tier in ("root", "leaf")]
    rows += [measured("u", tier, 4, seen=False) for tier in ("root", "zero_leaf", "after_1")]
    together = replace(clustering(), labels=[0, 0], k=1)
    tables = make_tables(RunRecord(measurements=rows, clustering=together))
    assert [row[0] for row in tables["tiers"].rows] == ["root", "root + leaf"]
    assert [row[0] for row in tables["unseen"].rows] == ["root", "leaf after 1 epoch"]
    apart = make_tables(RunRecord(measurements=rows, clustering=clustering()))
    assert [row[0] for row in apart["tiers"].rows] == ["root", "root + cluster + leaf"]
    assert "root + cluster, no leaf" in [row[0] for row in apart["unseen"].rows]


def test_every_control_is_a_row_before_the_tiers() -> None:
    rows = [measured("a", tier, 4) for tier in ("root", "local_lora", "head_only", "of-the-future")]
    table = make_tables(RunRecord(measurements=rows))["tiers"]
    assert [row[0] for row in table.rows] == [
        "frozen root + own head",
        "own pair and head, nothing shared",
        "of-the-future",
        "root",
    ]


def test_tables_without_rows_are_left_out() -> None:
    assert make_tables(RunRecord()) == {}
    assert tables_as_dict(RunRecord()) == {"eigenvalues": []}
    assert "##" not in tables_as_markdown(RunRecord(), FACTS)


def test_clustering_lists_the_chosen_one_once_and_its_alternatives() -> None:
    record = RunRecord(clustering=clustering())
    rows = make_tables(record)["clustering"].rows
    assert rows == (("B_ema", "gap", 2, 0.875, "yes"), ("dB_ema", "eigengap", 1, None, "no"))
    assert make_tables(record)["scores"].rows == ((2, 1.5, "chosen"), (3, 0.5, ""))


def test_every_eigenvalue_is_kept() -> None:
    record = RunRecord(clustering=clustering())
    assert tables_as_dict(record)["eigenvalues"] == [0.0, 0.123456789, 1.5]
    assert "0, 0.123457, 1.5" in tables_as_markdown(record, FACTS)


def test_stages_sum_over_their_rounds() -> None:
    rounds = [
        Round("cluster", k, at, 2, 1, 0, 1.0, 0.1, 0.0, 100, 200, 2.0, 1.5)
        for at in (6, 7)
        for k in (0, 1)
    ]
    (row,) = make_tables(RunRecord(rounds=rounds))["stages"].as_dict()["rows"]
    assert row["rounds"] == 2
    assert (row["rejected"], row["dropped"]) == (4, 0)
    assert (row["bytes up"], row["bytes down"]) == (400, 800)
    assert row["seconds"] == 8.0
    assert row["overhead"] == pytest.approx(0.25)


def test_routing_shows_both_choices() -> None:
    record = RunRecord(routed=[Routed("u", 1, 0, [0.25, 0.5], [1.0, 2.0])])
    assert make_tables(record)["routing"].rows == (("u", 1, 0, 0.5),)


@pytest.mark.parametrize("name", ["a|b", "a\nb", "a\r\n| c |\n## d"])
def test_text_from_outside_cannot_break_the_table(name: str) -> None:
    table = Table("t", ("client", "images"), ((name, 3),))
    lines = table_lines(table.markdown())
    assert len(lines) == 3
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    facts = RunFacts({}, 0, {}, 1, data=name)
    assert tables_as_markdown(RunRecord(), facts).count("\n#") == 0


def test_missing_cells_are_dashes_and_null() -> None:
    table = Table("t", ("name", "share"), (("x", None), ("y", 0.5)), frozenset({"share"}))
    assert table_lines(table.markdown())[2:] == ["| x | - |", "| y | 50.0 |"]
    assert json.loads(json.dumps(table.as_dict()))["rows"][0] == {"name": "x", "share": None}


def test_markdown_states_the_circumstances() -> None:
    text = tables_as_markdown(RunRecord(), FACTS)
    for part in ("flowers", "`planted(2)`", "seed: 3", "2 cores", "numpy 2.0, silva 1.0"):
        assert part in text
