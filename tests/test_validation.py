"""docs/validation.md says what the result files say, and the result files are well-formed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests"))

import claims  # noqa: E402
import clusters  # noqa: E402
import common  # noqa: E402
import demo  # noqa: E402
import gfm  # noqa: E402
import hilora  # noqa: E402
import label_spread  # noqa: E402
import render  # noqa: E402
import render_first_head  # noqa: E402
import tuning  # noqa: E402
from validation_cases import FACTS  # noqa: E402

FILES = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def strings(tree: Any) -> Iterator[str]:
    """Every text in a JSON tree, keys too."""
    if isinstance(tree, dict):
        yield from tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for each in tree:
            yield from strings(each)
    elif isinstance(tree, str):
        yield tree


def entries(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The measurements of a result file: itself, or its variants or cases."""
    parts = content.get("variants") or content.get("cases")
    return list(parts.values()) if parts else [content]


def figures(mean: float) -> dict[str, float]:
    return {"mean": mean, "p10": mean / 2, "std": 0.5 - mean / 2, "min": 0.0}


def run(leaf: float = 0.6, control: float = 0.5) -> dict[str, Any]:
    """One run as `tuning.collect` gives it, in which every claim holds."""
    return {
        "tiers": {"root": figures(0.2), "cluster": figures(0.4), "leaf": figures(leaf)},
        "control": dict.fromkeys(("head_only", "local_pair", "local_lora"), figures(control)),
        "unseen": {"root": 0.2, "zero_leaf": 0.4, "after_1": 0.5, "after_5": None},
        "clusters": 6,
        "ari": 1.0,
        "routing_agreement": 1.0,
        "clustering": [
            {"feature": "dB_cos", "rule": "separation", "k": 6, "ari": 1.0},
            {"feature": "B_ema", "rule": "gap", "k": 2, "ari": 0.25},
        ],
        "spread": {
            tier: {"relative": 0.3, "correlation": 0.5, "unexplained": 0.1}
            for tier in ("root", "cluster", "leaf", "local_pair")
        },
        "rounds": {"root": 15, "cluster": 20, "leaf": 15},
        "seconds": {"root": 1.0, "clustering": None},
        "peak_rss_bytes": 10**9,
    }


def hilora_file(*runs: dict[str, Any], settings: str = "as committed") -> dict[str, Any]:
    held = list(runs)
    entry = {
        **FACTS,
        "command": "python benchmarks/hilora.py",
        "runs": {str(n): each for n, each in enumerate(held)},
        "over_seeds": hilora.over_seeds(held),
        "differences": hilora.differences(held),
    }
    return {"benchmark": "hilora", "variants": {settings: entry}}


def test_the_page_is_up_to_date() -> None:
    page = render.PAGE.read_text()
    assert render.rewritten(page, common.RESULTS) == page, "run `python benchmarks/render.py`"


def test_the_page_has_every_block() -> None:
    named = re.findall(r"<!-- results: ([\w-]+) -->", render.PAGE.read_text())
    assert sorted(named) == sorted(render.BLOCKS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_result_says_where_it_comes_from(path: Path) -> None:
    content = json.loads(path.read_text())
    for entry in entries(content):
        assert {"machine", "versions", "commit", "date", "command"} <= set(entry)
        assert entry["command"].startswith("python benchmarks/")
        assert (ROOT / entry["command"].split()[1]).is_file()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_result_names_no_path_of_a_machine(path: Path) -> None:
    private = re.compile(r"(^|[\s=\"'])(/|~/|[A-Z]:\\)\w")
    assert [text for text in strings(json.loads(path.read_text())) if private.search(text)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_accuracies_are_fractions(path: Path) -> None:
    for entry in entries(json.loads(path.read_text())):
        for each in entry.get("runs", {}).values() if isinstance(entry.get("runs"), dict) else ():
            numbers = dict(tuning_numbers(each))
            assert numbers
            assert [name for name, value in numbers.items() if not 0 <= value <= 1] == []


def tuning_numbers(each: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for part in ("tiers", "control", "unseen"):
        yield from hilora.flatten(each[part], part)


def test_every_block_says_when_nothing_was_measured(tmp_path: Path) -> None:
    for name, block in render.BLOCKS.items():
        expected = claims.UNMEASURED if name == "claims" else render.MISSING
        assert expected in block(tmp_path)


def test_the_first_head_is_shown_with_and_without_its_temperature(tmp_path: Path) -> None:
    rows = {what: {"seen": 0.25, "unseen": 0.5} for what in render_first_head.KNOWN}
    run = {"temperature": 4.0, "accuracy": {"as it is": rows, "calibrated": rows}}
    content = {**FACTS, "command": "c", "points": {"50": {"0": run, "1": run}}}
    common.write_json(tmp_path / "first-head-pacs-domain-dir-50.json", content)
    shown = render.BLOCKS["first-head"](tmp_path)
    cells = " | ".join([*["25.0 +- 0.0"] * 4, *["50.0 +- 0.0"] * 4])
    assert f"| 50 | as it is | 1.00, 1.00 | {cells} |" in shown
    assert f"| 50 | calibrated | 4.00, 4.00 | {cells} |" in shown


def test_hilora_shows_tiers_controls_and_paired_differences(tmp_path: Path) -> None:
    content = hilora_file(run(0.6), run(0.7))
    content["variants"] |= hilora_file(run(), settings="federation.rounds=20")["variants"]
    common.write_json(tmp_path / "hilora-tin32-sc-dir-50.json", content)
    text = render.hilora(tmp_path, "tin32-sc-dir-50")
    assert "| root + cluster + leaf | 65.0 +- 7.1 |" in text
    assert "| leaf - head\\_only, mean | 15.0 +- 7.1 | +10.0, +20.0 |" in text
    assert "leaf, 5 epochs" not in text  # not measured
    assert "| federation.rounds=20 | 1 |" in text
    assert "| dB\\_cos | separation | 0, 1 | 6, 6 | 1.00, 1.00 |" in text
    assert "| root + cluster + leaf | 30.0 +- 0.0 | +0.50 | 10.0 +- 0.0 |" in text
    assert "own head | 30.0" not in text  # not measured
    assert "| B\\_ema | gap | - | 2, 2 | 0.25, 0.25 |" in text
    assert "2026-01-01, commit abc" in text


def test_a_table_names_the_commits_of_its_runs() -> None:
    """Runs that were kept are older than the file that shows them."""
    old, new = run() | {"commit": "old"}, run() | {"commit": "new"}
    entry = hilora_file(old, new, new)["variants"]["as committed"]
    assert "commits old (seed 0), new (seeds 1, 2)" in gfm.provenance(entry)
    entry = hilora_file(old)["variants"]["as committed"]
    assert "commit old;" in gfm.provenance(entry)
    assert "commit abc;" in gfm.provenance({**FACTS, "command": "x"})
    entry = hilora_file(*[new, new, old] * 4)["variants"]["as committed"]
    assert "new (seeds 0, 1, 3, 4, 6, 7, 9, 10), old (seeds 2, 5, 8, 11)" in gfm.provenance(entry)


def test_runs_of_one_seed_are_told_by_number() -> None:
    entry = {**FACTS, "command": "x", "runs": [{"commit": c} for c in ("old", "new", "new")]}
    assert "commits old (run 0), new (runs 1, 2)" in gfm.provenance(entry)
    entry["runs"] = entry["runs"][:1]
    assert "commit old;" in gfm.provenance(entry)
    assert "commit abc;" in gfm.provenance({**entry, "runs": [], "seeds": [0, 1]})


def test_a_demo_of_another_commit_or_other_weights_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "commit", lambda: "now")
    run = {"seconds": 1.0, "commit": "now", "weights": tuning.weights_digest(())}
    assert demo.kept(tmp_path) is None
    for changes, found in (({}, run), ({"commit": "old"}, None), ({"weights": "other"}, None)):
        common.write_json(tmp_path / "run.json", run | changes)
        assert demo.kept(tmp_path) == found


@pytest.mark.parametrize("name", clusters.CASES)
def test_every_client_of_a_clustering_case_is_clustered(name: str, tmp_path: Path) -> None:
    config = clusters.Job(name, 0, (), tmp_path, tmp_path).config()
    assert (config.data.unseen, config.data.clients) == (0.0, clusters.CASES[name].clients)
    asked = clusters.Job(name, 0, ("data.unseen=0.25",), tmp_path, tmp_path).config()
    assert asked.data.unseen == 0.25


def test_what_few_classes_explain_is_not_spread_between_clients(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2, 3], 8)
    np.savez(tmp_path / "data.npz", image=np.zeros((32, 4, 4, 3), np.uint8), label=labels)
    classes = {"one": [0], "two": [0, 1], "four": [0, 1, 2, 3]}
    clients = [
        {"name": name, "train": np.flatnonzero(np.isin(labels, held)).tolist()}
        for name, held in classes.items()
    ]
    (tmp_path / "partition.json").write_text(json.dumps({"clients": clients}))
    accuracy = {"leaf": (1.0, 0.75, 0.5), "root": (0.5, 0.75, 0.5)}  # log2 of the classes: 0, 1, 2
    rows = [
        {"client": name, "seen": True, "tier": tier, "accuracy": value}
        for tier, values in accuracy.items()
        for name, value in zip(classes, values, strict=True)
    ]
    rows.append({"client": "new", "seen": False, "tier": "root", "accuracy": 0.0})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metrics.parquet")
    found = label_spread.label_spread(tmp_path, tmp_path / "data.npz")
    assert found["leaf"]["correlation"] == pytest.approx(1.0)
    assert found["leaf"]["unexplained"] == pytest.approx(0.0, abs=1e-9)
    assert found["root"]["correlation"] == pytest.approx(0.0, abs=1e-9)
    assert found["root"]["unexplained"] == pytest.approx(np.std(accuracy["root"]))
    assert found["root"]["relative"] == pytest.approx(np.std(accuracy["root"]) * 12 / 7)


def test_a_claim_is_counted_by_seeds(tmp_path: Path) -> None:
    common.write_json(tmp_path / "hilora-tin32-sc-dir-50.json", hilora_file(run(), run(0.45)))
    text = claims.render(tmp_path)
    assert "| leaf beats Local-LoRA, mean | 1 of 2 | not measured yet |" in text
    assert "| unseen clients without training beat the root | 2 of 2 |" in text


def test_a_claim_without_its_measurement_does_not_hold() -> None:
    bare = run()
    bare["tiers"]["cluster"] = dict.fromkeys(figures(0.0))
    bare["control"] = {}
    held = [claim for claim, holds in claims.PER_RUN.items() if holds(bare)]
    assert held == ["unseen clients without training beat the root"]


def test_numbers_over_seeds() -> None:
    numbers = hilora.over_seeds([run(0.6), run(0.8)])
    assert numbers["tiers.leaf.mean"]["mean"] == pytest.approx(0.7)
    assert numbers["tiers.leaf.mean"]["std"] == pytest.approx(0.2 / 2**0.5)
    assert "unseen.after_5" not in numbers
    assert hilora.over_seeds([run()])["ari"]["std"] is None


def test_paths_do_not_reach_the_results() -> None:
    given = ["federation.rounds=3", "backbone=/somewhere/of/mine", "backbone='~/vit'"]
    assert tuning.public(given) == ["backbone=mine", "backbone=vit", "federation.rounds=3"]


def test_equal_settings_share_a_run(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    data.write_bytes(b"x")

    def job(recipe: str, *settings: str) -> tuning.Job:
        return tuning.Job(recipe, 0, settings, data, tmp_path)

    tiers = [f"federation.{tier}.rounds=3" for tier in ("root", "cluster", "leaf")]
    given = ["federation.rounds=9", *tiers]
    one = job("tin32-sc-dir-50", "data.samples_per_client=250", *given)
    assert one.folder == job("tin32-sc-dir-250", *given).folder
    assert one.folder != job("tin32-sc-dir-50").folder
    assert not one.done


def test_a_block_that_is_unknown_stops_the_rendering() -> None:
    with pytest.raises(SystemExit, match="no such block"):
        render.rewritten("<!-- results: nothing -->\n<!-- /results: nothing -->", common.RESULTS)
