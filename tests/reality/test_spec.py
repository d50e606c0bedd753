"""The spec file of this machine: readable as any other, and what is said in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from reality_cases import CALM, steps

from silva.errors import ConfigError
from silva.reality.kernels import Kernels
from silva.reality.machine import hardware_sections
from silva.reality.spec import Machine, as_toml, profile_sections, steps_of
from silva.reality.steps import Found, Point
from silva.supernode.cluster import Cluster
from silva.supernode.hardware import read_hardware
from silva.supernode.simulate import simulate
from silva.supernode.steptime import DecodeTimes, PrefillTimes
from silva.supernode.system import load_system
from silva.supernode.traces import traffic_of
from silva.supernode.workload import DecodeLoad, PrefillLoad

MACHINE = Machine("here", 'Some "Processor" (R)', 2, 16 * 10**9)
SHAPES = [(960, 576), (3072, 576), (576, 1536), (49152, 576)]


def product(rows: int, columns: int, inner: int) -> tuple[float, ...]:
    """A machine of 50 GFLOP/s and 10 GB/s, whose arithmetic and reading add up."""
    flops, read = 2.0 * rows * columns * inner, 4.0 * columns * inner
    return (rows, columns, inner, flops / (flops / 50e9 + read / 10e9))


KERNELS = Kernels(
    threads=1,
    peak_flops=50e9,
    vector_flops=5e9,
    memory_bps=10e9,
    copy_bps=5e9,
    start_s=2e-6,
    pass_s=1e-6,
    products=[product(rows, *shape) for rows in (64, 256) for shape in SHAPES],
    narrow=[product(rows, *shape) for rows in (1, 4, 16) for shape in SHAPES],
    prefill_attention_flops=20e9,
    shm_bps=4e9,
    shm_s=20e-6,
    tcp_bps=1e9,
    tcp_s=60e-6,
    file_bps=2e9,
)


def written(folder: Path, model: str = "tiny") -> Path:
    sections = hardware_sections(MACHINE, KERNELS, 4, 0.0005)
    sections |= profile_sections(steps(model=model), CALM, "2026-01-01")
    path = folder / "here.toml"
    path.write_text(as_toml(MACHINE, "measured", sections))
    return path


def test_the_file_reads_as_any_other_machine(tmp_path: Path) -> None:
    found = read_hardware(str(written(tmp_path)))
    hw = found.spec
    assert hw.die_name == MACHINE.processor
    assert (hw.dies, hw.die.memory_gbps, hw.die.bf16_tflops) == (2, 10.0, 0.05)
    assert hw.profile is not None
    assert hw.profile.steps == steps()
    assert hw.profile.server == CALM
    assert all(source for source in found.sources.values())


def test_the_fit_finds_the_machine_behind_the_tables(tmp_path: Path) -> None:
    fit = read_hardware(str(written(tmp_path))).spec.fitted
    assert fit.gemm_overlap == pytest.approx(1.0, abs=0.05)
    assert fit.gemm_compute == pytest.approx(1.0, abs=0.05)


def test_simulations_and_plans_take_the_steps_of_their_model(tmp_path: Path) -> None:
    path = written(tmp_path, "smollm2")
    system = replace(load_system("silva-serve"), hardware=str(path))
    decode, prompts = DecodeLoad(mtp=False), PrefillLoad(prompt_len=64)
    assert DecodeTimes(system, decode, 1).seconds(1, 10, 0) == pytest.approx(0.011)
    assert PrefillTimes(system, prompts, 1).seconds(0, 0, 64) == pytest.approx(0.064)
    other = replace(system, model="llama-3-70b")
    assert DecodeTimes(other, decode, 1).seconds(1, 10, 0) > 1.0


def test_a_simulation_on_this_machine(tmp_path: Path) -> None:
    path = written(tmp_path, "smollm2")
    system = replace(load_system("silva-serve"), hardware=str(path))
    traffic = traffic_of([(float(n), 64, 8, ()) for n in range(5)])
    cluster = Cluster(prefill=1, decode=1, batch_per_npu=8, mtp=False)
    found = simulate(cluster, traffic, system=system).summary()
    assert found["finished"] == 5
    assert found["ttft_ms"]["p50"] == pytest.approx(64.0, rel=0.01)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[1.0, 0.0, 1.0, 1.0]", "[1.0, 0.0, -1.0, 1.0]"),
        ("[1.0, 0.0, 1.0, 1.0]", "[1.0, 0.0, 0.0, 1.0]"),
        ("[64.0, 0.0, 64.0, 64.0]", "[64.0, 0.0, 64.0]"),
        ('model = "tiny"', ""),
        ("queue_ms = { value = 0.0", "queue_ms = { value = -1.0"),
    ],
)
def test_a_broken_profile_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = written(tmp_path)
    text = path.read_text().replace("[1, 0, 1.0, 1.0]", "[1.0, 0.0, 1.0, 1.0]")
    text = text.replace("[64, 0, 64.0, 64.0]", "[64.0, 0.0, 64.0, 64.0]")
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=r"here\.toml|steps|profile"):
        read_hardware(str(path))


def test_tables_are_medians_and_jitter_their_spread() -> None:
    found = [
        Found(Point("prefill", 8, 0), [0.010, 0.011, 0.012], [0.020] * 3, []),
        Found(Point("prefill", 16, 0), [0.020] * 3, [0.030] * 3, []),
        Found(Point("prefill", 16, 16), [0.022] * 3, [0.030] * 3, [0.018] * 3),
        Found(Point("decode", 1, 10), [0.004, 0.005, 0.006, 0.005], [0.006] * 4, []),
    ]
    made = steps_of(found, "tiny", "float32", 2, 1, 16)
    assert made.prefill == ((8, 0, 11.0, 20.0), (16, 0, 20.0, 30.0), (16, 16, 22.0, 30.0))
    assert made.decode == ((1, 12, 5.0, 6.0),)
    assert made.head_ms == pytest.approx(2.0)
    ratios = [ratio for _, ratio in made.decode_jitter]
    assert ratios == sorted(ratios)
    assert ratios[0] < 1.0 < ratios[-1]
