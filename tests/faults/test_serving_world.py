"""The check that no process is left does see one that is, by the name that the system shows."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from serving_world import CARD, all_ready, peer_processes, run, save_model, settings

from silva.serving.front import Front


def test_a_peer_that_is_left_is_seen(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")

    async def scene() -> None:
        front = Front(settings(tmp_path / "kv"), model, [CARD])
        await front.open()
        await all_ready(front)
        assert front._centre is not None and front._folder is not None
        await front._centre.close()
        front._folder.cleanup()

    try:
        with pytest.raises(AssertionError):
            run(scene())
        names = sorted(process.name() for process in peer_processes())
        assert names == ["silva-cache-1", "silva-decode-1", "silva-prefill-1"]
    finally:
        left = peer_processes()
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=30)
    assert not peer_processes()
