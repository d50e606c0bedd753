"""The folder of a report: which files, what is in them, and that none is ever half there."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from silva.federation.record import Accuracy, Clustering, Overlap, Round, RunFacts, RunRecord
from silva.federation.report import metrics_table, write_report

FACTS = RunFacts({"rounds": 3, "local": {"lr": 0.1}}, 7, {"silva": "1.0"}, 2, "2 cores", "d", "p")
DATA_FILES = {
    "summary.json",
    "run.json",
    "tables.json",
    "tables.md",
    "metrics.parquet",
    "rounds.parquet",
}


def record() -> RunRecord:
    return RunRecord(
        measurements=[
            Accuracy("a", True, "root", "root", 1, 3, 4, 0.5),
            Accuracy("b", True, "root", "root", 1, 1, 4, 0.25),
            Accuracy("e", True, "root", "root", 1, 0, 0),
        ],
        rounds=[Round("root", -1, 1, 2, 0, 1, math.nan, 0.1, 0.0, 10, 20, 1.0, 0.9)],
        clustering=Clustering(["a", "b"], [0, 0], [[0, 1], [1, 0]], [0.0, math.nan], 1, "f", "r"),
        seconds={"root": 1.5},
    )


def strict_json(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take a second; these tests look at the other files."""
    monkeypatch.setattr("silva.federation.report.render_plots", lambda *_: {})


def test_the_folder_holds_data_and_plots_and_nothing_else(tmp_path: Path) -> None:
    made = RunRecord(overlaps=[Overlap("a", "root-leaf", 0.1), Overlap("b", "root-leaf", 0.2)])
    write_report(made, FACTS, tmp_path / "new" / "report")
    names = {path.name for path in (tmp_path / "new" / "report").iterdir()}
    assert names == DATA_FILES | {"subspace_overlap.png", "overview.png"}


@pytest.mark.usefixtures("no_plots")
def test_the_summary_is_returned_as_written(tmp_path: Path) -> None:
    summary = write_report(record(), FACTS, tmp_path)
    assert strict_json(tmp_path / "summary.json") == summary
    assert summary["tiers"]["root"]["mean"] == 0.5


@pytest.mark.usefixtures("no_plots")
def test_run_json_states_the_circumstances(tmp_path: Path) -> None:
    write_report(record(), FACTS, tmp_path)
    run = strict_json(tmp_path / "run.json")
    assert run["config"] == {"rounds": 3, "local": {"lr": 0.1}}
    assert (run["seed"], run["threads"], run["versions"]) == (7, 2, {"silva": "1.0"})


@pytest.mark.usefixtures("no_plots")
def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    write_report(record(), FACTS, tmp_path)
    assert strict_json(tmp_path / "tables.json")["eigenvalues"] == [0.0, None]


@pytest.mark.usefixtures("no_plots")
def test_metrics_have_a_row_per_measurement(tmp_path: Path) -> None:
    write_report(record(), FACTS, tmp_path)
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert [row["accuracy"] for row in rows] == [0.75, 0.25, None]
    assert rows[0] == {
        "client": "a",
        "seen": True,
        "tier": "root",
        "stage": "root",
        "round": 1,
        "correct": 3,
        "total": 4,
        "balanced": 0.5,
        "accuracy": 0.75,
    }
    (aggregation,) = pq.read_table(tmp_path / "rounds.parquet").to_pylist()
    assert (aggregation["cluster"], aggregation["bytes_down"]) == (-1, 20)


def test_tables_without_rows_keep_their_column_types() -> None:
    schema = metrics_table([]).schema
    assert schema.field("client").type == pa.string()
    assert schema.field("seen").type == pa.bool_()
    assert schema.field("accuracy").type == pa.float64()


@pytest.mark.usefixtures("no_plots")
def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(RunRecord.from_dict(record().as_dict()), FACTS, tmp_path / name)
    for name in DATA_FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.usefixtures("no_plots")
def test_plots_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "overview.png").write_bytes(b"of another run")
    (tmp_path / "notes.txt").write_text("the user's own")
    write_report(record(), FACTS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == DATA_FILES | {"notes.txt"}


@pytest.mark.usefixtures("no_plots")
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(record(), FACTS, tmp_path)
    before = (tmp_path / "summary.json").read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_report(RunRecord(), FACTS, tmp_path)
    assert (tmp_path / "summary.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == DATA_FILES
