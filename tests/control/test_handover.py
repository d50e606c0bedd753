"""KV that changes peers: reserved, held, released, and given back whatever goes wrong."""

from __future__ import annotations

import pytest
from control_world import FLAT, IDENTITY, World, answer, ask, hash_tokens

from silva.control import handover, scheduler
from silva.control.handover import Reservation
from silva.control.integrity import check
from silva.control.request import Request
from silva.control.slo import LinearStepTime


class Decoder(World):
    """A decode peer whose runner gets KV from a prefill peer's."""

    def reserve(self, request: Request) -> Reservation | None:
        given = handover.reserve(self.state, request, IDENTITY.keys(request), self.step_time)
        check(self.state)
        return given

    def receive(self, source: World, request: Request, given: Reservation) -> None:
        """Read the blocks that are not ready, as the background thread does, and the first token."""
        table = source.state.blocks_of(request.id)
        assert len(table) == len(given.blocks)
        self.runner.know(request)
        self.runner.tokens[request.id] = list(source.runner.tokens[request.id])
        for mine, theirs in list(zip(given.blocks, table, strict=True))[given.ready :]:
            for offset in range(4):
                if (theirs, offset) in source.runner.kv:
                    self.runner.kv[mine, offset] = source.runner.kv[theirs, offset]

    def commit(self, request: str) -> bool:
        done = handover.commit(self.state, request)
        check(self.state)
        return done


def pass_on(prefill: World, decode: Decoder, request: Request) -> None:
    given = decode.reserve(request)
    assert given is not None
    prefill.add(request, hand_over=True)
    while request.id not in prefill.handed:
        prefill.step()
    decode.receive(prefill, request, given)
    assert decode.commit(request.id)
    assert handover.release(prefill.state, request.id)


@pytest.mark.parametrize("prompt", [1, 3, 4, 5, 8, 30])
def test_a_request_changes_peers_after_its_first_token(prompt: int) -> None:
    prefill, decode = World(), Decoder()
    request = ask("a", prompt, answer=9)
    pass_on(prefill, decode, request)
    assert len(prefill.said("a")) == 1 and not prefill.ended
    decode.run()
    assert decode.said("a") == answer(request)
    assert not any(plan.chunks for plan in decode.plans)
    assert decode.plans[0].joined == ("a",)
    for world in (prefill, decode):
        assert world.state.counts().blocks_used == 0 and not world.state.entries


def test_the_blocks_are_held_until_they_are_released() -> None:
    prefill = World()
    prefill.add(ask("a", 10), hand_over=True)
    update = prefill.step()
    assert update.handed == ["a"] and update.ended == []
    assert prefill.state.counts().held == 1 and prefill.state.counts().running == 0
    assert len(prefill.state.blocks_of("a")) == 3
    assert prefill.schedule().left == ("a",)
    assert handover.release(prefill.state, "a") and not handover.release(prefill.state, "a")
    assert prefill.state.counts().blocks_used == 0


def test_a_request_that_ends_with_its_first_token_is_not_handed_over() -> None:
    prefill = World()
    prefill.add(ask("short", 10, answer=1), hand_over=True)
    prefill.add(ask("stop", 10), hand_over=True, stop=1)
    prefill.run()
    assert {name: ended.reason for name, ended in prefill.ended.items()} == {
        "short": "length",
        "stop": "stop",
    }
    assert prefill.handed == [] and prefill.state.counts().blocks_used == 0


def test_held_blocks_are_not_taken_and_their_release_lets_others_in() -> None:
    prefill = World(blocks=10, context_tokens=40)
    prefill.add(ask("a", 30), hand_over=True)
    prefill.step()
    prefill.add(ask("b", 20), hand_over=True)
    assert prefill.schedule().tokens == 0
    handover.release(prefill.state, "a")
    prefill.step()
    assert prefill.handed == ["a", "b"]


def test_a_held_request_can_be_cancelled() -> None:
    prefill = World()
    prefill.add(ask("a", 10), hand_over=True)
    prefill.step()
    assert scheduler.cancel(prefill.state, "a")
    assert prefill.state.counts().blocks_used == 0 and not handover.release(prefill.state, "a")


def test_a_request_cancelled_in_its_last_prefill_step_is_not_held() -> None:
    prefill = World()
    prefill.add(ask("a", 10), hand_over=True)
    plan = prefill.schedule()
    scheduler.cancel(prefill.state, "a")
    assert prefill.finish_step(plan).handed == []
    assert prefill.state.counts().blocks_used == 0


def test_prefixes_that_the_decode_peer_has_are_not_read_again() -> None:
    prefill, decode = World(blocks=80), Decoder(blocks=80)
    common = tuple(hash_tokens("sys", 16))
    first, second = (ask(n, common + tuple(hash_tokens(n, 5)), answer=6) for n in "ab")
    pass_on(prefill, decode, first)
    given = decode.reserve(second)
    assert given is not None and given.ready == 4
    assert given.blocks[:4] == decode.state.blocks_of("a")[:4]
    prefill.add(second, hand_over=True)
    prefill.run()
    decode.receive(prefill, second, given)
    decode.commit("b")
    decode.run()
    assert decode.said("b") == answer(second)


def test_no_room_is_said_at_once_and_leaves_nothing_behind() -> None:
    decode = Decoder(blocks=10, context_tokens=40)
    assert decode.reserve(ask("a", 30)) is not None
    assert decode.reserve(ask("b", 30)) is None
    assert list(decode.state.entries) == ["a"] and decode.state.counts().blocks_free == 2
    assert handover.abandon(decode.state, "a") and not handover.abandon(decode.state, "a")
    assert decode.reserve(ask("b", 30)) is not None


def test_reservations_count_towards_the_batch_and_the_target() -> None:
    decode = Decoder(max_running=2)
    assert decode.reserve(ask("a", 4)) and decode.reserve(ask("b", 4))
    assert decode.reserve(ask("c", 4)) is None
    slow = Decoder(LinearStepTime(0.010, request_s=0.010), target_s=0.0301, blocks=200)
    given = [slow.reserve(ask(name, 4)) is not None for name in "abcd"]
    assert given == [True, True, False, False]
    assert slow.state.counts().coming == 2


def test_what_comes_late_is_refused() -> None:
    decode = Decoder()
    assert not decode.commit("a")
    decode.reserve(ask("a", 4))
    handover.abandon(decode.state, "a")
    assert not decode.commit("a")
    decode.add(ask("b", 4))
    assert not decode.commit("b") and not handover.abandon(decode.state, "b")


@pytest.mark.parametrize("end", ["commit", "abandon"])
def test_a_cancelled_reservation_stays_until_nobody_writes_into_it(end: str) -> None:
    decode = Decoder()
    decode.reserve(ask("a", 12))
    assert scheduler.cancel(decode.state, "a")
    assert decode.state.counts().blocks_used == 3
    if end == "commit":
        assert not decode.commit("a")
    else:
        assert handover.abandon(decode.state, "a")
    assert decode.state.counts().blocks_used == 0 and not decode.state.entries


def test_a_decode_peer_out_of_blocks_preempts_and_computes_again() -> None:
    prefill, decode = World(blocks=80), Decoder(blocks=10, context_tokens=40)
    requests = [ask(name, 13, answer=20) for name in "ab"]
    for request in requests:
        pass_on(prefill, decode, request)
    decode.run()
    assert decode.ended["b"].preemptions == 1 and decode.ended["a"].preemptions == 0
    for request in requests:
        assert decode.said(request.id) == answer(request)


def test_arrived_requests_wait_for_their_turn() -> None:
    prefill, decode = World(), Decoder(max_running=2)
    requests = [ask(name, 4, answer=answer_) for name, answer_ in (("a", 9), ("b", 3))]
    for request in requests:
        pass_on(prefill, decode, request)
    decode.step()
    assert decode.plans[0].joined == ("a", "b")
    assert decode.reserve(ask("c", 4)) is None
    decode.run()
    assert decode.reserve(ask("c", 4)) is not None


def test_an_id_in_use_cannot_be_reserved() -> None:
    decode = Decoder()
    decode.reserve(ask("a", 4))
    with pytest.raises(ValueError, match="here already"):
        decode.reserve(ask("a", 4))
    with pytest.raises(ValueError, match="has 5 tokens and may have 5"):
        handover.reserve(decode.state, ask("b", 4, answer=1), (), FLAT)
