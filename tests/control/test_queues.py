"""The queue by urgency and the agenda by step, against plain dictionaries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from silva.control.agenda import NEVER, Agenda
from silva.control.urgency import UrgencyQueue

NAMES = st.sampled_from("abcdefgh")


@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(["push", "remove", "pop"]), NAMES, st.integers(0, 3))),
)
def test_the_queue_is_in_order(last_first: bool, moves: list[tuple[str, str, int]]) -> None:
    queue, model = UrgencyQueue(last_first=last_first), dict[str, tuple[int, float, int]]()
    for move, name, priority in moves:
        pick = max if last_first else min
        first = pick(model, key=model.__getitem__, default=None)
        if move == "push":
            order = (priority, 0.5, ord(name))
            queue.push(name, order)
            model[name] = order
        elif move == "remove":
            queue.remove(name)
            model.pop(name, None)
        else:
            assert queue.pop() == first
            model.pop(first or "", None)
        assert queue.first() == pick(model, key=model.__getitem__, default=None)
        assert len(queue) == len(model) and all(each in queue for each in model)


def test_those_taken_out_take_no_memory() -> None:
    queue = UrgencyQueue()
    queue.push("first", (0, 0.0, 0))
    for number in range(1000):
        queue.push(f"{number}", (1, 0.0, number))
        queue.remove(f"{number}")
    assert len(queue) == 1 and len(queue._heap) + len(queue._new) < 100


@given(st.lists(st.tuples(st.sampled_from(["note", "strike", "pop"]), NAMES, st.integers(0, 5))))
def test_the_agenda_knows_who_is_due(moves: list[tuple[str, str, int]]) -> None:
    agenda, model = Agenda(), dict[str, int]()
    for move, name, step in moves:
        if move == "note":
            model.pop(name, None)
            agenda.note(name, step)
            model[name] = step
        elif move == "strike":
            agenda.strike(name)
            model.pop(name, None)
        else:
            due = tuple(each for each, at in model.items() if at == step)
            assert agenda.due(step) == agenda.pop(step) == due
            for each in due:
                del model[each]
        assert agenda.next == min(model.values(), default=NEVER)
        assert len(agenda) == len(model)
        assert all(agenda.step_of(each) == model.get(each) for each in "abcdefgh")


def test_steps_that_are_over_take_no_memory() -> None:
    agenda = Agenda()
    for step in range(1000):
        agenda.note("a", step)
        agenda.pop(step)
    assert len(agenda._noted) == len(agenda._heap) == 0
