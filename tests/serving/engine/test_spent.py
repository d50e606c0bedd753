"""Where the time of an engine's steps went, by its own clock."""

from __future__ import annotations

from engine_world import CONTEXT, World, tokens_of

from silva.models.language import LanguageModel
from silva.serving.engine.spent import Spent


def test_the_time_between_busy_steps_belongs_to_the_first_of_them() -> None:
    spent = Spent()
    spent.turn(1.0)
    spent.computed(1.0, execute_s=2.0, model_s=1.5)
    spent.turn(4.0)  # a second of the owner's work is in it
    spent.turn(9.0)  # nothing was computed since: this was sleep
    assert spent.told() == {
        "steps": 1,
        "step_s": 3.0,
        "execute_s": 2.0,
        "model_s": 1.5,
        "preempted": 0,
        "drafted": 0,
        "accepted": 0,
    }


def test_an_engine_counts_its_steps(model: LanguageModel) -> None:
    world = World(model, blocks=CONTEXT // 4, step_tokens=40, max_running=12)
    for number in range(12):
        world.ask(f"p{number}", tokens_of(60 + number, number))
    world.run()
    spent = world.engine.spent
    assert spent.steps >= len(world.batches)
    assert 0 < spent.model_s < spent.execute_s < spent.step_s
    assert spent.preempted == world.preempted > 0
