"""The scheduler of an engine: continuous batching with chunked prefill, prefix reuse, preemption.

    state = State(Settings(blocks=1024, context_tokens=2048, target_s=0.050))
    load = state.load()
    while serving:
        for request in arrived():
            add(state, request, identity.keys(request))
        step_time.observe(*load, last_step_s())   # of all that clients waited for; 0: there was none
        plan = schedule(state, now_s(), step_time)
        result = runner.run(plan)                 # who sampled an end token
        if plan.tokens:
            load = state.load()
            for ended in update(state, result).ended:
                tell(ended.request, ended.reason)

A plan is the difference to the one before. A runner applies it in this order: forget the tables of
`left` (ended, cancelled, preempted, or handed over and only read from now on), append `blocks`, let
`joined` decode, then compute one token of everybody who decodes and all `chunks`. Within a step
nobody reads what the same step computes for another. A plan without tokens is no step: apply its
`left`, do not `update`.

There are no modes. A prefill peer adds its requests with `hand_over` and releases them
(`silva.control.handover`), a decode peer reserves and commits, a colocated engine does neither.
Blocks that other peers have cached come in through `silva.control.fills`.

The cost of a step is that of the requests that change in it, however many go on decoding: see
`State.growth` and `State.ends`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from silva.control import holdings
from silva.control.entry import Entry, Filed, Stage
from silva.control.handover import new_entry
from silva.control.request import Chunk, FinishReason, Plan, Request, StepResult, StoredBlock
from silva.control.slo import StepTime
from silva.control.state import State
from silva.control.step import StepBuilder, only_decoding


class Ended(NamedTuple):
    """A request that is over. Its blocks are free and its id may be used again."""

    request: str
    reason: FinishReason
    cached_tokens: int
    preemptions: int
    started_s: float | None
    """`now_s` of the step that first computed anything of it."""


_DECODING = Stage.DECODING
"""A name of its own, as in `silva.control.state`."""


@dataclass(slots=True, init=False)
class Update:
    """What a step came to, in the order in which it did."""

    ended: list[Ended]
    handed: list[str]
    """Requests whose prompt is computed and first token sampled, held until they are released."""
    stored: list[StoredBlock]
    """Blocks that are complete now and were not found before: to store in the cache. `pin` them for
    as long as the copy takes.
    """

    def __init__(self) -> None:
        self.ended, self.handed, self.stored = [], [], []


def add(
    state: State,
    request: Request,
    keys: Sequence[bytes] = (),
    *,
    hand_over: bool = False,
    lookup: bool = False,
) -> None:
    """Queue a request.

    keys       of its full blocks (`CacheIdentity.keys`); empty: it shares nothing
    hand_over  end here after the first token and hold the blocks for a decode peer
    lookup     ask the cache peers for blocks that this pool lacks (`silva.control.fills`)

    Raises ValueError for an id in use, no prompt, a prompt over the context, no token left to say,
    or more keys than full blocks. A request that fits the context always ends: the pool holds it.
    """
    entry = new_entry(state, request, keys, hand_over=hand_over, lookup=lookup)
    state.entries[request.id] = entry
    holdings.enqueue(state, entry)


def cancel(state: State, request: str) -> bool:
    """Forget a request, wherever it stands; False when it is not known.

    Its blocks are free at once, unless a step or a transfer writes to them right now: then after
    `update`, or after `filled`, `give_up`, `commit` or `abandon`. Until then its id is in use.
    """
    entry = state.entries.get(request)
    if entry is None:
        return False
    if state.plan is not None and _in_step(state, entry):
        if not entry.cancelled:
            state.doomed.append(request)
        entry.cancelled = True
    elif entry.stage in (Stage.FILLING, Stage.RESERVED):
        entry.cancelled = True
    else:
        holdings.remove(state, entry)
    return True


def schedule(state: State, now_s: float, step_time: StepTime) -> Plan:
    """The next step. If it has tokens it is in flight, and `update` must follow.

    Raises RuntimeError while a step is in flight.
    """
    if state.plan is not None:
        raise RuntimeError(f"step {state.plan.step} is in flight: update comes before schedule")
    queued = state.joining or state.started.members or state.waiting.members
    if queued or state.growth.next == state.step:
        plan = StepBuilder(state, now_s, step_time).build()
    else:
        plan = only_decoding(state)
    if plan.tokens:
        state.plan = plan
    return plan


def update(state: State, result: StepResult) -> Update:
    """Take in what the step in flight came to.

    Raises ValueError when the result is of another step, or says of a request that was not given a
    token in it that it finished.
    """
    plan = state.plan
    if plan is None or plan.step != result.step:
        raise ValueError(f"step {result.step} is not in flight")
    told = result.finished or result.more
    reasons = _reasons(state, result) if told else {}
    out, flight = Update(), state.flight
    state.plan = None
    if flight:
        state.flight = {}
        for request, chunk in flight.items():
            _take_in(state, state.entries[request], chunk, reasons.get(request), out)
    if told:
        for request, tokens in result.more:
            state.hurry(state.entries[request], tokens)
        for request, reason in reasons.items():
            if request not in flight:
                _end(state, state.entries[request], reason, out)
    _end_of_step(state, out)
    if state.doomed:
        for request in state.doomed:
            if request in state.entries:
                holdings.remove(state, state.entries[request])
        state.doomed.clear()
    return out


def _reasons(state: State, result: StepResult) -> dict[str, FinishReason]:
    """Who samples an end token; ValueError where that, or what drafts gave, cannot be."""
    reasons = dict(result.finished)
    for request in reasons:
        entry = state.entries.get(request)
        if entry is None or not _samples(state, entry):
            raise ValueError(f"{request} was given no token in step {result.step}")
    for request, tokens in result.more:
        if not _may_have(state, request, tokens):
            raise ValueError(f"{request} cannot have {tokens} more in step {result.step}")
    return reasons


def ending(state: State, more: Iterable[tuple[str, int]] = ()) -> tuple[str, ...]:
    """Requests that will have reached their length with the step in flight.

    `more`: see `StepResult.more`.
    """
    if state.plan is None:
        return ()
    sooner = (r for r, tokens in more if state.ends.step_of(r) == state.step + tokens)
    return (*state.ends.due(state.step), *sooner)


def learn(state: State, request: str, keys: Sequence[bytes]) -> tuple[StoredBlock, ...]:
    """Let later requests share what this one has been given too, a next turn of a conversation.

    `keys` are those of its prompt and its tokens so far (`prefix.extend`). Called while it decodes
    here, at the latest before the `update` that ends it (`ending`, `StepResult.finished`), and while
    a step is in flight only once that is computed. Returns all its full blocks that are found now,
    the first of the prompt first.

    Raises ValueError when `keys` do not begin with those it has, or are more than its full blocks,
    KeyError for a request that is not known.
    """
    entry = state.entries[request]
    length = state.length_of(entry)
    known = tuple(keys[: len(entry.keys)]) == tuple(entry.keys)
    if not known or len(keys) > length // state.settings.block_tokens:
        raise ValueError(f"these are not keys of {request}")
    entry.keys = keys
    if entry.stage is not Stage.DECODING:
        return ()
    # Between steps the last token's KV is still to be computed.
    computed = length if state.plan is not None else length - 1
    full = min(computed // state.settings.block_tokens, len(keys))
    holdings.complete(state, entry, range(full), request)
    found = ((key, state.index.find(key)) for key in keys[:full])
    space = entry.request.namespace
    return tuple(StoredBlock(key, block, space) for key, block in found if block is not None)


def pin(state: State, blocks: Sequence[int]) -> None:
    """Keep blocks that are used or can be found, whatever becomes of their requests."""
    for block in blocks:
        state.pool.share(block)
        state.pins[block] = state.pins.get(block, 0) + 1


def unpin(state: State, blocks: Sequence[int]) -> None:
    """Undo `pin`, once for each time. ValueError for a block that is not pinned."""
    for block in blocks:
        if not state.pins.get(block):
            raise ValueError(f"block {block} is not pinned")
        state.pins[block] -= 1
        if not state.pins[block]:
            del state.pins[block]
        state.pool.release((block,))
    state.stuck = False


def settle(state: State) -> None:
    """Whoever joins with the next step joins now, so that it can be quiet.

    For simulators: no plan tells of them. Nothing while a step is in flight, or while there is more
    to schedule than that.
    """
    if state.joining and state.plan is None and not _to_serve(state):
        for request in state.joining:
            state.join(state.entries[request])
        state.joining.clear()


def quiet_steps(state: State) -> int:
    """For how many steps from now on the same requests decode and nothing else happens.

    The last of them may be the last of a request. 0 when the next step must be scheduled: someone
    joins, a prompt is computed, or blocks run out, and always where there are drafts. Arrivals,
    transfers and a changed `StepTime` are not foreseen: whoever advances stops before them.
    """
    decoding, step, settings = state.decoding, state.step, state.settings
    if not decoding or state.plan is not None or state.joining or settings.drafts:
        return 0
    if not state.stuck and (state.waiting.members or state.started.members):
        return 0
    steps = state.ends.next - step + 1
    if state.pool.free >= decoding * (1 + (steps - 1) // settings.block_tokens):
        return steps
    grows = state.growth.next - step
    return grows if grows < steps else steps


def advance(state: State, steps: int) -> Update:
    """The same as so many rounds of `schedule` and `update` in which nobody samples an end token.

    For simulators: no plan tells of the blocks that requests are given. The work of the first step
    is `state.load()`; each later one has `decoding` more context tokens. Raises ValueError for more
    than `quiet_steps`.
    """
    if not 0 <= steps <= quiet_steps(state):
        raise ValueError(f"cannot advance {steps} steps, only {quiet_steps(state)} are quiet")
    out = Update()
    if steps:
        _begin(state, state.step + steps - 1)
        _end_of_step(state, out)
    return out


def begin(state: State, steps: int) -> Plan:
    """The same, but the last of the steps, of which there is one at least, has only begun: it is in
    flight, and `update` must follow.
    """
    if not 0 < steps <= quiet_steps(state):
        raise ValueError(f"cannot begin step {steps}, only {quiet_steps(state)} are quiet")
    _begin(state, state.step + steps - 1)
    plan = state.plan = only_decoding(state)
    return plan


def _begin(state: State, last: int) -> None:
    """Quiet steps pass, and `last` begins: whoever needs a block in one of them is given it."""
    growth = state.growth
    while growth.next <= last:
        state.step = growth.next
        for request in growth.pop(state.step):
            holdings.grow(state, state.entries[request])
    state.step = last


def _to_serve(state: State) -> bool:
    if state.stuck:
        return False
    return bool(state.started.members or state.waiting.members)


def _end_of_step(state: State, out: Update) -> None:
    if state.ends.next == state.step:
        for request in state.ends.pop(state.step):
            _end(state, state.entries[request], "length", out)
    state.step += 1


def _take_in(
    state: State, entry: Entry, chunk: Chunk, reason: FinishReason | None, out: Update
) -> None:
    """A chunk was computed: its blocks can be shared, and its last token is known if it sampled."""
    size = state.settings.block_tokens
    entry.computed = chunk.stop
    if entry.keys:
        made = range(chunk.start // size, min(chunk.stop // size, len(entry.keys)))
        out.stored.extend(holdings.complete(state, entry, made, entry.request.id))
    if not chunk.samples:
        holdings.enqueue(state, entry)
        return
    state.lengthen(entry)
    if reason is None and entry.length >= entry.limit:
        reason = "length"
    if reason is not None:
        _end(state, entry, reason, out)
    elif entry.hand_over and not entry.cancelled:
        state.dismiss(entry)
        entry.stage = Stage.HELD
        state.held += 1
        state.left[entry.id] = None
        entry.told = 0
        out.handed.append(entry.id)
        if entry.filed is not Filed.SAFE:
            state.refile(entry)
    else:
        entry.stage = Stage.JOINING
        state.joining[entry.id] = None
        if entry.length > len(entry.blocks) * state.settings.block_tokens:
            state.promise(entry)
        state.refile(entry)


def _end(state: State, entry: Entry, reason: FinishReason, out: Update) -> None:
    if not entry.cancelled:
        cached = entry.cached_tokens if entry.cached else 0
        out.ended.append(Ended(entry.id, reason, cached, entry.preemptions, entry.started_s))
    holdings.remove(state, entry)


def _in_step(state: State, entry: Entry) -> bool:
    return entry.stage is Stage.DECODING or entry.request.id in state.flight


def _may_have(state: State, request: str, tokens: int) -> bool:
    """Whether the step in flight can have given a request so many tokens more than one."""
    entry = state.entries.get(request)
    if entry is None or entry.stage is not Stage.DECODING:
        return False
    fits = state.length_of(entry) + 1 + tokens <= entry.limit
    return fits and 0 < tokens <= state.settings.drafts


def _samples(state: State, entry: Entry) -> bool:
    """Whether the step in flight gives the request a token."""
    chunk = state.flight.get(entry.request.id)
    return entry.stage is Stage.DECODING or (chunk is not None and chunk.samples)
