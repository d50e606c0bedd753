"""Roles follow the traffic and do not flap."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.control.mapping import Health, PeerLoad, Role
from silva.control.scaling import Move, RoleController, Scaling, Window, peer_to_move


@dataclass
class Cluster:
    """Peers whose prompts and answers cost fixed peer-seconds a token; queues are not modelled."""

    prefill: int
    decode: int
    rate: float = 10.0
    prompt: float = 1000.0
    output: float = 200.0
    prompt_s: float = 1e-4
    output_s: float = 1e-3

    def demand(self) -> tuple[float, float]:
        return (self.rate * self.prompt * self.prompt_s, self.rate * self.output * self.output_s)

    def window(self, draw: random.Random, noise: float) -> Window:
        wobble = [1 + draw.uniform(-noise, noise) for _ in range(5)]
        busy = [
            min(1.0, demand / peers)
            for demand, peers in zip(self.demand(), (self.prefill, self.decode), strict=True)
        ]
        return Window(
            10.0,
            max(0, round(self.rate * 10 * wobble[0])),
            self.prompt * wobble[1],
            self.output * wobble[2],
            self.prefill,
            self.decode,
            min(1.0, busy[0] * wobble[3]),
            min(1.0, busy[1] * wobble[4]),
        )

    def carry_out(self, move: Move) -> None:
        step = 1 if move.target is Role.PREFILL else -1
        self.prefill += step
        self.decode -= step


def run(
    cluster: Cluster,
    windows: int,
    *,
    noise: float = 0.0,
    seed: int = 0,
    controller: RoleController | None = None,
) -> list[tuple[int, Role]]:
    """Windows at which a peer was moved, and to which role."""
    controller = controller or RoleController()
    draw, moves = random.Random(seed), []
    for number in range(windows):
        move = controller.observe(cluster.window(draw, noise))
        if move:
            cluster.carry_out(move)
            moves.append((number, move.target))
    return moves


CLUSTERS = st.builds(
    Cluster,
    st.integers(1, 8),
    st.integers(1, 8),
    rate=st.floats(0, 60),
    prompt=st.floats(10, 4000),
    output=st.floats(10, 800),
)


@given(CLUSTERS, st.floats(0, 0.1), st.integers(0, 999))
def test_constant_load_with_noise_never_flaps(cluster: Cluster, noise: float, seed: int) -> None:
    peers = cluster.prefill + cluster.decode
    moves = run(cluster, 150, noise=noise, seed=seed)
    assert len({role for _, role in moves}) <= 1, "a peer went there and back"
    assert len(moves) < peers and cluster.prefill + cluster.decode == peers
    assert min(cluster.prefill, cluster.decode) >= 1
    late = [number for number, _ in moves if number > 100]
    assert late == [] or noise > 0


@given(CLUSTERS)
def test_it_ends_where_no_move_would_help(cluster: Cluster) -> None:
    run(cluster, 200)
    need = cluster.demand()
    now = max(need[0] / cluster.prefill, need[1] / cluster.decode)
    if now < 0.6 or now > 0.92:
        return  # too little to do, or no peer shows how much more there is
    sides = ((need[0], cluster.prefill), (need[1], cluster.decode))
    for (target, targets), (source, sources) in (sides, sides[::-1]):
        if sources > 1 and target / targets == now:
            assert now <= 1.25 * source / (sources - 1) + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_longer_prompts_move_a_peer_within_a_few_windows(seed: int) -> None:
    cluster, controller = Cluster(3, 3, rate=18, prompt=1200, output=120), RoleController()
    assert run(cluster, 40, noise=0.05, seed=seed, controller=controller) == []
    cluster.prompt, cluster.output = 2200.0, 90.0
    moves = run(cluster, 40, noise=0.05, seed=seed, controller=controller)
    assert moves and moves[0][0] <= 3 and {role for _, role in moves} == {Role.PREFILL}
    assert (cluster.prefill, cluster.decode) == (4, 2)


def test_longer_answers_move_one_the_other_way() -> None:
    cluster = Cluster(3, 3, rate=18, prompt=600, output=220)
    assert run(cluster, 40) == [(2, Role.DECODE)]


def test_a_saturated_role_is_known_by_what_its_tokens_cost_before() -> None:
    """Demand of 6 peers on 2, which only show that they are always busy."""
    cluster, controller = Cluster(2, 6, rate=10, prompt=1000, output=150), RoleController()
    assert run(cluster, 1, controller=controller) == []
    cluster.rate, cluster.output = 60.0, 30.0
    draw = random.Random(0)
    seen = [move for _ in range(3) if (move := controller.observe(cluster.window(draw, 0)))]
    assert len(seen) == 1 and seen[0].busy_now > 2.0
    cluster.carry_out(seen[0])
    run(cluster, 40, controller=controller)
    assert (cluster.prefill, cluster.decode) == (6, 2)


def test_patience_and_cool_down() -> None:
    controller = RoleController(Scaling(patience=2, cool_down=6))
    moves = run(Cluster(1, 7, rate=50, prompt=1000, output=20), 60, controller=controller)
    assert [number for number, _ in moves] == [1, 9, 17, 25, 33]


def test_one_strange_window_moves_nobody() -> None:
    cluster, controller, draw = (
        Cluster(3, 3, rate=20, prompt=1200),
        RoleController(),
        random.Random(0),
    )
    for number in range(30):
        window = cluster.window(draw, 0.02)
        if number % 3 == 0:
            window = replace(window, prefill_busy=1.0, decode_busy=0.1)
        else:
            window = replace(window, prefill_busy=0.7, decode_busy=0.7)
        assert controller.observe(window) is None


def test_the_last_peer_of_a_role_stays() -> None:
    assert run(Cluster(1, 1, rate=50, prompt=4000, output=10), 40) == []
    alone = replace(Cluster(1, 2).window(random.Random(0), 0), prefill_peers=0)
    assert RoleController().observe(alone) is None


def test_an_idle_cluster_is_left_alone() -> None:
    assert run(Cluster(1, 7, rate=0), 40) == []
    assert run(Cluster(2, 6, rate=10, prompt=1000, output=10), 40) == []


def test_the_least_loaded_peer_moves() -> None:
    move = Move(Role.DECODE, Role.PREFILL, 1.0, 0.5)
    peers = [
        PeerLoad("decode-0", Role.DECODE, requests=2),
        PeerLoad("decode-1", Role.DECODE, requests=1),
        PeerLoad("decode-2", Role.DECODE, requests=1),
        PeerLoad("decode-3", Role.DECODE, Health.DRAINING),
        PeerLoad("prefill-0", Role.PREFILL),
    ]
    assert peer_to_move(peers, move) == "decode-2"
    assert peer_to_move(peers[3:], move) is None


@pytest.mark.parametrize(
    "wrong", [{"margin": 0}, {"patience": 0}, {"cool_down": -1}, {"floor": -1}]
)
def test_impossible_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        Scaling(**wrong)  # type: ignore[arg-type]
