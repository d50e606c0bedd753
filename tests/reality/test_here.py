"""What `silva validate here` refuses before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from serving_world import save_model, settings

from silva.errors import ConfigError
from silva.reality.here import HereConfig, validate_here
from silva.reality.profile import Target
from silva.reality.trace import TraceConfig


def test_a_trace_longer_than_the_context_is_refused_at_once(tmp_path: Path) -> None:
    target = Target(save_model(tmp_path), (), settings(tmp_path))
    config = HereConfig(trace=TraceConfig(input="250", output="7"))
    told: list[str] = []
    with pytest.raises(ConfigError, match="257 tokens, and the server holds 256"):
        validate_here(config, target, None, told.append)
    assert told == []
