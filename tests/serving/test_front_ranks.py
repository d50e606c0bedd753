"""What operators may ask of peers that share experts: one may be missing, none be too many."""

from __future__ import annotations

from typing import Any

import pytest
from front_stage import Stage, play

from silva.serving.backend import ChangeRefusedError, UnavailableError
from silva.serving.wire.messages import Prefill

SETTINGS: dict[str, Any] = {"pools": {"prefill": 2, "decode": 1}, "experts": {"ranks": 4}}
RANKS = tuple(f"decode-{n}" for n in (1, 2, 3, 4))
ALL = ("prefill-1", "prefill-2", *RANKS, "cache-1")


def test_each_rank_is_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        assert tuple(s.processes.names("decode")) == RANKS
        s.report("decode-2", s.front.hub.peers["decode-2"].load, ranks=4.0)
        ranks = {peer.name: peer.ranks for peer in s.front.status().peers}
        assert (ranks["decode-2"], ranks["prefill-1"]) == (4, 0)

    play(monkeypatch, scene, **SETTINGS)


def test_one_rank_may_leave_and_another_take_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        await s.front.drain("decode-2")
        with pytest.raises(ChangeRefusedError, match="3 or 4 are possible"):
            await s.front.drain("decode-3")
        with pytest.raises(ChangeRefusedError, match="of the 4 ranks 1 has not left yet"):
            await s.front.scale({"decode": 4})
        s.processes.left("decode-2")
        await s.front.scale({"decode": 4})
        assert s.processes.names("decode") == ["decode-1", "decode-3", "decode-4", "decode-5"]

    play(monkeypatch, scene, **SETTINGS)


def test_none_leaves_while_another_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*(name for name in ALL if name != "decode-4"))
        for change in (s.front.drain("decode-1"), s.front.scale({"decode": 3})):
            with pytest.raises(ChangeRefusedError, match=r"until .* all decode peers ready"):
                await change
        s.hello("decode-4")
        await s.front.scale({"decode": 3})
        assert s.states()["decode-4"] == "draining"

    play(monkeypatch, scene, **SETTINGS)


@pytest.mark.parametrize("count", [2, 5])
def test_other_numbers_are_refused(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        before = s.states()
        with pytest.raises(ChangeRefusedError, match=f"{count} decode peers .* 4 ranks"):
            await s.front.scale({"prefill": 1, "decode": count})
        with pytest.raises(ChangeRefusedError, match=r"5 decode peers .* 4 ranks"):
            await s.front.switch("prefill-1", "decode")
        assert s.states() == before
        await s.front.switch("decode-1", "prefill")
        await s.front.drain("prefill-1")  # other roles are as ever

    play(monkeypatch, scene, **SETTINGS)


SHARED: dict[str, Any] = {"pools": {"prefill": 1, "decode": 2}, "experts": {"prefill_ranks": 3}}
PREFILL = tuple(f"prefill-{n}" for n in (1, 2, 3))
THERE = (*PREFILL, "decode-1", "decode-2", "cache-1")


def test_the_peer_that_leads_is_given_all_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*THERE[1:])
        assert not s.front.ready()
        asked = [s.ask(f"r{n}") for n in range(3)]
        await s.settle()
        assert not any(isinstance(message, Prefill) for _, message in s.wire.sent)
        s.hello("prefill-1")
        assert s.front.ready()
        await s.settle()
        given = [name for name, message in s.wire.sent if isinstance(message, Prefill)]
        assert given == ["prefill-1"] * 3
        for task in asked:
            task.cancel()
        await s.settle()

    play(monkeypatch, scene, **SHARED)


def test_nobody_is_asked_when_the_peer_that_leads_is_gone_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*THERE)
        s.processes.let_go("prefill-1")
        s.processes.left("prefill-1", "it cannot")
        with pytest.raises(UnavailableError):
            await s.ask("r")
        assert not s.front.ready()

    play(monkeypatch, scene, **SHARED)


def test_one_that_follows_may_leave_and_the_one_that_leads_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*THERE)
        for change in (s.front.drain("prefill-1"), s.front.switch("prefill-1", "decode")):
            with pytest.raises(ChangeRefusedError, match="prefill-1 leads"):
                await change
        with pytest.raises(ChangeRefusedError, match=r"4 prefill peers .* 3 ranks"):
            await s.front.switch("decode-1", "prefill")
        for count in (1, 4):
            with pytest.raises(ChangeRefusedError, match="2 or 3 are possible"):
                await s.front.scale({"prefill": count})
        await s.front.drain("prefill-2")
        with pytest.raises(ChangeRefusedError, match="2 or 3 are possible"):
            await s.front.drain("prefill-3")
        s.processes.left("prefill-2")
        await s.front.scale({"prefill": 3})
        assert s.processes.names("prefill") == ["prefill-1", "prefill-3", "prefill-4"]
        s.hello("prefill-4")
        await s.front.scale({"prefill": 2})
        assert s.states()["prefill-1"] == "ready"

    play(monkeypatch, scene, **SHARED)
