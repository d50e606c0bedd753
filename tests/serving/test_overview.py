"""What the hub knows, as `silva status` and the metrics show it."""

from __future__ import annotations

from silva.control.admission import Admission
from silva.control.slo import Trade
from silva.serving.hub.hub import Hub
from silva.serving.hub.settings import HubSettings
from silva.serving.overview import overview
from silva.serving.wire.messages import Hello, Load, Role, Status

CACHE = {"objects": 4.0, "hits": 5.0, "misses": 2.0, "corrupt": 1.0, "write_errors": 3.0}


def start(hub: Hub, name: str, role: Role) -> None:
    hub.expect(name, role)
    hub.receive(name, Hello(name, role, pid=1))


def admits(batch: int) -> Admission:
    return Admission(0.05, batch, 0.04, 100.0, (Trade(0.0, 2 * batch, 0.08, 9.0, 0),))


def test_what_decode_peers_let_in_is_shown_and_summed() -> None:
    hub = hub_of_four()
    start(hub, "decode-2", "decode")
    assert overview(hub).pools["decode"].admission is None
    for name, batch in (("decode-1", 3), ("decode-2", 4)):
        hub.receive(name, Status(Load(), {}, admits(batch)))
    status = overview(hub)
    shown = {p.name: p.admission and p.admission.batch for p in status.peers if p.role != "cache"}
    assert shown == {"decode-1": 3, "decode-2": 4, "prefill-1": None}
    both = status.pools["decode"].admission
    assert both is not None
    assert (both.batch, both.trades[0].batch, both.trades[0].tokens_per_s) == (7, 14, 18.0)
    assert status.pools["prefill"].admission is None


def tell(hub: Hub, name: str, **counters: float) -> None:
    hub.receive(name, Status(Load(), counters))


def hub_of_four() -> Hub:
    hub = Hub(HubSettings(), lambda name, message: None, lambda: 1.0)
    start(hub, "prefill-1", "prefill")
    start(hub, "decode-1", "decode")
    start(hub, "cache-1", "cache")
    start(hub, "cache-2", "cache")
    return hub


def test_counters_of_peers_are_summed() -> None:
    hub = hub_of_four()
    shown = overview(hub).counters
    assert (shown["spoilt_transfers"], shown["corrupt"], shown["write_errors"]) == (0, 0, 0)
    tell(hub, "prefill-1", spoilt_transfers=1)
    tell(hub, "decode-1", spoilt_transfers=2)
    tell(hub, "decode-1", spoilt_transfers=4)
    tell(hub, "cache-1", **CACHE)
    tell(hub, "cache-2", **CACHE)
    status = overview(hub)
    assert status.counters == hub.counters | {
        "spoilt_transfers": 5,
        "corrupt": 2,
        "write_errors": 6,
    }
    assert (status.cache.objects, status.cache.hits, status.cache.misses) == (8, 10, 4)


def test_totals_do_not_fall_when_a_peer_is_replaced() -> None:
    hub = hub_of_four()
    tell(hub, "cache-1", **CACHE)
    hub.lost("cache-1")
    start(hub, "cache-1", "cache")
    status = overview(hub)
    assert (status.cache.objects, status.cache.hits, status.counters["corrupt"]) == (0, 5, 1)
    tell(hub, "cache-1", objects=1, hits=2, misses=0, corrupt=1, write_errors=0)
    status = overview(hub)
    assert (status.cache.objects, status.cache.hits, status.cache.misses) == (1, 7, 2)
    assert (status.counters["corrupt"], status.counters["write_errors"]) == (2, 3)


def test_a_peer_tells_where_its_steps_went() -> None:
    hub = hub_of_four()
    tell(hub, "decode-1", steps=3.0, step_s=2.0, execute_s=1.5, model_s=1.0, preempted=1.0)
    decode, prefill = (p for p in overview(hub).peers if p.role in ("decode", "prefill"))
    assert (decode.steps, decode.step_s, decode.execute_s, decode.model_s) == (3, 2.0, 1.5, 1.0)
    assert (decode.preempted, prefill.steps, prefill.step_s) == (1, 0, 0.0)
