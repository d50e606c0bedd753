from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import silva
from silva.cli import doctor
from silva.cli.main import make_app
from silva.kernels import native

RUNNER = CliRunner()
FACTS = (
    "silva",
    "python",
    "platform",
    "cores",
    "torch",
    "threads",
    "bfloat16",
    "memory",
    "native module",
)


def test_json_holds_every_fact() -> None:
    result = RUNNER.invoke(make_app(), ["doctor", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert set(FACTS) <= set(report)
    assert report["silva"]["value"] == silva.__version__
    assert int(report["cores"]["value"]) >= 1
    assert (report["native module"]["status"] == "ok") == native.native_loaded()


def test_text_has_a_line_for_every_finding() -> None:
    result = RUNNER.invoke(make_app(), ["doctor"])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == len(doctor.diagnose())


def test_without_the_native_module_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_compiled", None)
    (finding,) = [f for f in doctor.diagnose() if f.name == "native module"]
    assert finding.status == "slow"
    assert "C++ compiler" in finding.remedy


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"no_such_library": "hub"})
    (finding,) = [f for f in doctor.diagnose() if f.name == "no_such_library"]
    assert finding.status == "absent"
    assert "silva[hub]" in finding.remedy


def test_assets_are_told_by_their_kind() -> None:
    weights, data = doctor.asset_findings([("vit/model.safetensors", 12_000_000), ("README", 3)])
    assert (weights.status, weights.value) == ("ok", "vit/model.safetensors (12.0 MB)")
    assert data.status == "absent"
    assert data.remedy
