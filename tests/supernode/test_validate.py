from __future__ import annotations

import pytest

from silva.supernode.validate import BARS, Report, table, validate


@pytest.fixture(scope="module", params=list(BARS))
def report(request: pytest.FixtureRequest) -> Report:
    return validate(request.param)


def test_scored_rows_are_within_the_bars(report: Report) -> None:
    mean, worst = BARS[report.sheet]
    assert len(report.errors) >= 8
    assert report.mean <= mean
    assert report.worst <= worst
    assert report.holds


def test_every_ablation_points_the_right_way(report: Report) -> None:
    assert [row.name for row in report.ablations if not row.holds] == []


def test_the_table_has_every_row(report: Report) -> None:
    text = table(report)
    for row in (*report.rows, *report.ablations):
        assert f"{row.name} [{row.answer}]" in text
    assert "WRONG" not in text
    assert len(report.as_plain()["rows"]) == len(report.rows) + len(report.ablations)


def test_arithmetic_is_printed_but_not_scored() -> None:
    report = validate("cloudmatrix")
    printed = [row for row in report.rows if not row.scored]
    assert printed
    assert len(report.errors) == len(report.rows) - len(printed)
