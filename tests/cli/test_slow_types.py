from __future__ import annotations

import pytest

from silva.cli.slow_types import warn_of_bfloat16
from silva.models import arithmetic


@pytest.mark.parametrize(
    ("emulated", "device"), [(True, "cpu"), (True, "cpu:0"), (True, "cuda:0"), (False, "cpu")]
)
def test_only_an_emulating_processor_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    emulated: bool,
    device: str,
) -> None:
    monkeypatch.setattr(arithmetic, "emulates_bfloat16", lambda: emulated)
    warn_of_bfloat16("federation.local.matmul", device)
    told = capsys.readouterr()
    warned = "federation.local.matmul = float32 is far faster" in told.err
    assert told.out == ""
    assert warned is (emulated and device != "cuda:0")
