"""The table that ends a run, from a report that is written here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from silva.cli.summary import print_summary
from silva.federation.record import Accuracy, Round, RunRecord
from silva.federation.summary import summarise


def printed(record: RunRecord, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (folder / "report").mkdir(parents=True)
    text = json.dumps(summarise(record), sort_keys=True)
    (folder / "report" / "summary.json").write_text(text)
    print_summary(folder)
    return capsys.readouterr().out


def one_round(rejected: int, lost: int) -> Round:
    return Round("root", -1, 1, 2, rejected, lost, 1.0, 0.1, 0.0, 10, 10, 1.0, 0.5)


def test_replies_that_were_not_used_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = printed(RunRecord(rounds=[one_round(1, 2), one_round(0, 3)]), tmp_path / "some", capsys)
    assert "replies not used: 1 rejected, 5 lost" in told
    none = printed(RunRecord(rounds=[one_round(0, 0)]), tmp_path / "none", capsys)
    assert "not used" not in none


def test_leaves_of_unseen_clients_come_in_the_order_of_their_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiers = ("after_12", "root", "after_3", "after_1")
    rows = [Accuracy("u", False, tier, "unseen", 1, 5, 10) for tier in tiers]
    told = printed(RunRecord(measurements=rows), tmp_path / "forest", capsys)
    places = [told.index(f"leaf, {epochs} local") for epochs in ("1", "3", "12")]
    assert places == sorted(places) and told.index("root") < places[0]
