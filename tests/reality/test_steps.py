"""Steps of a real engine over a tiny model: what is measured, and that nothing stays behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from serving_world import save_model, settings

from silva.reality.steps import LEAST, MOST, Bench, Grid, Point, measure_steps
from silva.serving.config import ServeConfig


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("model")
    config = settings(folder, step={"chunk_tokens": 64, "most_running": 8})
    return Bench(config, save_model(folder), 1)


@pytest.mark.parametrize(
    ("point", "earlier"),
    [
        (Point("prefill", 16, 0), 0),
        (Point("prefill", 64, 64), LEAST),
        (Point("decode", 3, 20), 0),
    ],
)
def test_a_step_is_repeated_and_the_engine_left_empty(
    bench: Bench, point: Point, earlier: int
) -> None:
    taken, before = bench.measure(point, 0.0)
    assert LEAST <= len(taken) <= MOST
    assert len(before) == earlier
    assert min(taken) > 0
    assert bench.engine.counts().blocks_used == 0


def test_a_busy_engine_keeps_to_its_limits(bench: Bench) -> None:
    context = bench.engine.state.settings.context_tokens
    prompt, batch = bench.busy("prefill"), bench.busy("decode")
    assert (prompt.first, prompt.second) == (64, 0)
    assert batch.first == 4
    assert batch.second < context - MOST


def test_an_engine_with_a_small_batch_is_kept_busy_too(tmp_path: Path) -> None:
    config = settings(tmp_path, step={"chunk_tokens": 64, "most_running": 2})
    small = Bench(config, save_model(tmp_path), 1)
    taken, _ = small.measure(small.busy("decode"), 0.0)
    assert len(taken) >= LEAST
    assert small.engine.counts().blocks_used == 0


def test_a_target_of_the_server_does_not_hinder_the_measurement(tmp_path: Path) -> None:
    step = {"chunk_tokens": 64, "most_running": 2, "tpot_target_s": 1e-6}
    grid = Grid(chunks=(16,), befores=(), batches=(2,), contexts=(20,), point_s=0.0)
    found = measure_steps(settings(tmp_path, step=step), save_model(tmp_path), 1, grid)
    assert [each.point.role for each in found] == ["prefill", "decode"]
    assert all(len(each.beside_s) >= LEAST for each in found)


@pytest.mark.parametrize(
    ("chunk", "running", "context"), [(256, 64, 8192), (64, 8, 512), (1, 1, 64)]
)
def test_the_grid_keeps_to_the_limits(chunk: int, running: int, context: int) -> None:
    step = {"chunk_tokens": chunk, "most_running": running}
    config: ServeConfig = settings(Path("unused"), step=step)
    grid = Grid.of(config, context, 0.1)
    assert grid.chunks[-1] == chunk
    assert all(before % chunk == 0 and before + chunk < context for before in grid.befores)
    assert grid.batches[0] == 1
    assert max(grid.batches) <= running
    assert all(1 <= tokens <= context - MOST for tokens in grid.contexts)
