"""Where the time of an engine's steps went, by its own clock."""

from __future__ import annotations

from engine_world import CONTEXT, World, tokens_of

from silva.control.request import SamplingParams
from silva.control.slo import Load
from silva.models.language import LanguageModel
from silva.serving.engine.spent import Spent


def test_the_time_between_busy_steps_belongs_to_the_first_of_them() -> None:
    spent = Spent()
    assert spent.turn(1.0) is None
    load = Load(2, 30, 4)
    spent.computed(1.0, execute_s=2.0, model_s=1.5, load=load)
    assert spent.turn(4.0) == (load, 3.0)  # a second of the owner's work is in it
    assert spent.turn(9.0) is None  # nothing was computed since: this was sleep
    assert spent.told() == {
        "steps": 1,
        "step_s": 3.0,
        "execute_s": 2.0,
        "model_s": 1.5,
        "preempted": 0,
        "drafted": 0,
        "accepted": 0,
    }


def test_the_time_per_token_is_that_of_requests_that_decode() -> None:
    spent = Spent()
    for start_s, step_s, decoding, right in (
        (0.0, 5.0, 0, 0),  # a prompt alone
        (5.0, 0.25, 4, 0),
        (5.25, 0.5, 2, 2),  # two tokens each
        (5.75, 4.25, 2, 0),  # a pause counts a little
    ):
        spent.turn(start_s)
        assert spent.tpot_s == (0.25 if start_s > 5.0 else 0.0)
        spent.computed(start_s, step_s, step_s, Load(decoding, 10 * decoding, 0), right)
    assert spent.accepted == 2
    spent.turn(10.0)
    assert spent.tpot_s == 0.5
    spent.turn(99.0)
    assert spent.tpot_s == 0.5


def test_an_engine_counts_its_steps(model: LanguageModel) -> None:
    world = World(model, blocks=CONTEXT // 4, step_tokens=40, max_running=12)
    for number in range(12):
        world.ask(f"p{number}", tokens_of(60 + number, number))
    world.run()
    spent = world.engine.spent
    assert spent.steps >= len(world.batches)
    assert 0 < spent.model_s < spent.execute_s < spent.step_s
    assert spent.preempted == world.preempted > 0


def test_what_a_step_takes_is_learned_with_what_the_owner_does_after_it(
    model: LanguageModel,
) -> None:
    """A target for the time per token is about all that a client waits for."""
    world = World(model)
    world.ask("a", tokens_of(8), SamplingParams(max_tokens=24))
    while world.step():
        world.now_s += 3.0
    steps = world.engine.step_time.fit.steps
    assert steps == world.engine.spent.steps > 20
    assert 3.0 < world.engine.step_time.seconds(1, 20, 0) < 6.0
