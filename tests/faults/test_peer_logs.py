"""A request can be followed through the log of every peer by its id."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from serving_world import answer, request_of, run, save_model, server, settings

HEX = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_its_id_stands_in_the_log_of_every_peer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path / "model")

    async def scene() -> None:
        async with server(settings(tmp_path / "kv"), model) as front:
            await answer(front, request_of(HEX, range(40), 8))
            await answer(front, request_of("another", range(40), 8))

    logger = logging.getLogger("silva")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        run(scene())
    finally:
        logger.setLevel(before)
    lines = [line for line in capfd.readouterr().err.splitlines() if HEX in line]
    for peer, news in (
        ("prefill-1", "taken, attempt 0, 40 tokens"),
        ("cache-1", "0 of 2 blocks are here"),
        ("prefill-1", "prefilled"),
        ("decode-1", "joined"),
        ("decode-1", "ended, length"),
    ):
        assert any(peer in line and news in line for line in lines), (peer, news)
