"""The sockets of the star, between threads of this process."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import zmq

from silva.serving.wire.messages import (
    AnyMessage,
    Cancel,
    Hello,
    Members,
    Stop,
    encode,
)
from silva.serving.wire.star import Centre, Ray, address


def test_front_and_peer_speak_in_order(tmp_path: Path) -> None:
    where = address(tmp_path, "hub")
    heard: list[tuple[str, AnyMessage]] = []
    got: list[AnyMessage] = []

    def peer() -> None:
        ray = Ray(where, "p-1/x")
        ray.send(Hello("p-1", "prefill", 1))
        while not any(isinstance(m, Stop) for m in got):
            got.extend(m for _, m in ray.receive(1.0))
        ray.send(Cancel("last", 0))
        ray.close()

    async def front() -> None:
        centre = Centre(where, lambda who, message: heard.append((who, message)))
        thread = threading.Thread(target=peer)
        thread.start()
        while not heard:
            await asyncio.sleep(0.01)
        for number in range(500):
            centre.send("p-1/x", Cancel("r", number))
        centre.send("nobody", Members(()))
        centre.send("p-1/x", Stop())
        while len(heard) < 2:
            await asyncio.sleep(0.01)
        thread.join()
        await centre.close()

    asyncio.run(asyncio.wait_for(front(), 20))
    assert got == [*(Cancel("r", n) for n in range(500)), Stop()]
    assert [who for who, _ in heard] == ["p-1/x"] * 2


def test_bytes_that_are_no_message_do_not_deafen_the_front(tmp_path: Path) -> None:
    where = address(tmp_path, "hub")
    heard: list[AnyMessage] = []

    async def front() -> None:
        centre = Centre(where, lambda _, message: heard.append(message))
        context = zmq.Context()
        stranger = context.socket(zmq.DEALER)
        stranger.connect(where)
        stranger.send(b"\x00garbage")
        stranger.send(encode(Cancel("r", 1)))
        while not heard:
            await asyncio.sleep(0.01)
        context.destroy(linger=0)
        await centre.close()

    asyncio.run(asyncio.wait_for(front(), 20))
    assert heard == [Cancel("r", 1)]


def test_other_threads_leave_work_for_the_peers_own(tmp_path: Path) -> None:
    ray = Ray(address(tmp_path, "hub"), "p")
    ran_on: list[int] = []
    later = threading.Timer(0.05, ray.call, [lambda: ran_on.append(threading.get_ident())])
    later.start()
    start = time.monotonic()
    while not ran_on:
        list(ray.receive(10.0))
    assert ran_on == [threading.get_ident()]
    assert time.monotonic() - start < 9  # woken, not timed out
    ray.close()
