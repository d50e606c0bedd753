"""What the scheduler knows: settings, requests, blocks, and counts.

Nothing here decides. The counts are kept up to date by `admit`, `join` and `dismiss`, so that no
step has to look at all requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from silva.control.agenda import Agenda
from silva.control.blocks import BlockPool
from silva.control.entry import Entry, Filed, Stage
from silva.control.prefix import PrefixIndex
from silva.control.request import Chunk, Plan, Request
from silva.control.slo import Load
from silva.control.urgency import Order, UrgencyQueue
from silva.errors import ConfigError

_SAFE, _IDLE, _PROMISED, _RUNNING = Filed
_DECODING, _HELD = Stage.DECODING, Stage.HELD
_OUTSIDE = (Stage.FILLING, Stage.RESERVED, Stage.HELD)
"""Blocks of these are read or written by somebody outside. Members of an enumeration have names of
their own here, since a step looks at them for every request that changes, and they are slow to find.
"""


@dataclass(frozen=True)
class Settings:
    """Limits of one engine. ConfigError for numbers that cannot work together."""

    blocks: int
    """KV blocks of the pool."""
    context_tokens: int
    """Longest request, prompt and answer together; it must fit into the pool."""
    block_tokens: int = 16
    step_tokens: int = 512
    """Most positions computed in one step: decoding requests and chunks of prompts together."""
    max_running: int = 64
    """Most requests that are decoding or computing their prompt."""
    target_s: float | None = None
    """Time between tokens (TPOT) to hold; None: as many as `max_running`."""
    aim: float = 1.0
    """Share of the target that steps are planned for; see `silva.control.slo.AIM`."""
    drafts: int = 0
    """Guessed tokens that a step may compute for each decoding request, beside its own one."""

    @property
    def step_s(self) -> float | None:
        """How long a step may be expected to take; None: without target, as long as it likes."""
        return None if self.target_s is None else self.aim * self.target_s

    def __post_init__(self) -> None:
        for name in ("blocks", "context_tokens", "block_tokens", "step_tokens", "max_running"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is less than 1", where=name)
        if self.target_s is not None and not self.target_s > 0:
            raise ConfigError(f"{self.target_s} is not positive", where="target_s")
        if not 0 < self.aim <= 1:
            raise ConfigError(f"{self.aim} is not a share", where="aim")
        if self.drafts < 0:
            raise ConfigError(f"{self.drafts} is less than 0", where="drafts")
        if self.max_running * (1 + self.drafts) > self.step_tokens:
            raise ConfigError(
                f"{self.max_running} requests cannot all decode in a step of "
                f"{self.step_tokens} tokens",
                where="max_running",
                remedy="raise step_tokens or lower max_running",
            )
        if self.blocks_for(self.context_tokens) > self.blocks:
            raise ConfigError(
                f"a request of {self.context_tokens} tokens needs "
                f"{self.blocks_for(self.context_tokens)} blocks of {self.block_tokens} tokens, "
                f"but there are {self.blocks}",
                where="context_tokens",
                remedy="give the pool more memory or lower context_tokens",
            )

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_tokens)


@dataclass(frozen=True)
class Counts:
    """Requests by where they stand, and blocks. `blocks_free + blocks_used == blocks`, always."""

    waiting: int
    running: int
    decoding: int
    coming: int
    held: int
    blocks: int
    blocks_free: int
    blocks_used: int
    blocks_kept: int
    """Free ones whose content can still be found."""


class State:
    """All that the scheduler remembers between two steps. One per engine; not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pool = BlockPool(settings.blocks)
        self.index = PrefixIndex()
        self.entries: dict[str, Entry] = {}
        self.waiting = UrgencyQueue()
        self.started = UrgencyQueue()
        self.joining: dict[str, None] = {}
        self.holders = {kind: UrgencyQueue(last_first=True) for kind in Filed}
        """Requests by what their blocks are filed as, the least urgent first; none that are SAFE."""
        self.running_blocks: dict[int, int] = {}
        """Blocks of RUNNING and PROMISED requests by priority, held (shared ones counted more than
        once) and promised.
        """
        self.growth = Agenda()
        """Steps at which decoding requests need their next block."""
        self.ends = Agenda()
        """Steps after which they have reached their length."""
        self.step = 0
        """Number of the next step, or of the one in flight."""
        self.plan: Plan | None = None
        """The step in flight: planned, its result not yet known."""
        self.flight: dict[str, Chunk] = {}
        self.lookups: dict[str, tuple[bytes, ...]] = {}
        self.doomed: list[str] = []
        self.left: dict[str, None] = {}
        self.preempted: dict[str, None] = {}
        self.pins: dict[int, int] = {}
        self.running = self.decoding = self.starting = self.coming = self.held = 0
        self.starting_tokens = self.coming_tokens = self.promised = self._context_base = 0
        self.stuck = False
        """Nothing in the queues can go on until something happens."""
        self._arrivals = 0

    def new_order(self, request: Request) -> Order:
        """The request's place in every queue, from now until it ends."""
        self._arrivals += 1
        return (request.priority, request.arrival_s, self._arrivals)

    def length_of(self, entry: Entry) -> int:
        """Tokens of a request known before the step `self.step`."""
        if entry.stage is _DECODING:
            return entry.length + self.step - entry.joined_step
        return entry.length

    @property
    def context_tokens(self) -> int:
        """Tokens that the decoding requests attend to in the step `self.step`, over all of them."""
        return self._context_base + self.step * self.decoding

    def load(self) -> Load:
        """The work of the step in flight; between steps, of one that would only decode.

        Kept from before `update` until the whole step is over, to be observed with its seconds.
        """
        prefill, decoding = 0, self.decoding
        for chunk in self.flight.values():
            prefill += chunk.stop - chunk.start
        return Load(decoding, self._context_base + self.step * decoding, prefill)

    def counts(self) -> Counts:
        """For status and metrics; O(1)."""
        waiting = len(self.entries) - self.running - self.coming - self.held
        pool = self.pool
        return Counts(
            waiting, self.running, self.decoding, self.coming, self.held,
            pool.total, pool.free, pool.used, pool.kept,
        )  # fmt: skip

    def blocks_of(self, request: str) -> tuple[int, ...]:
        """A request's block table: position p lies in block `p // block_tokens` of it."""
        return tuple(self.entries[request].blocks)

    def cached_tokens(self, request: str) -> int:
        """Tokens of its prompt whose KV came from a cache; settled when its first token is."""
        return self.entries[request].cached_tokens

    def retarget(self, target_s: float | None) -> None:
        """Hold another TPOT target from the next step on; running requests are not preempted."""
        self.settings = replace(self.settings, target_s=target_s)
        self.stuck = False

    def admit(self, entry: Entry) -> None:
        """Count a request as running; its blocks are promised to it. The caller refiles it."""
        if entry.coming:
            self.uncome(entry)
        entry.admitted = True
        self.running += 1
        if not entry.hand_over:
            self.starting += 1
            self.starting_tokens += entry.length
        self.promise(entry)

    def lengthen(self, entry: Entry) -> None:
        """An admitted request that does not decode yet was given a token."""
        entry.length += 1
        entry.sampled = True
        if entry.admitted and not entry.hand_over:
            self.starting_tokens += 1

    def join(self, entry: Entry) -> None:
        """An admitted request decodes from the step `self.step` on."""
        self._stop_starting(entry)
        step, length = self.step, entry.length
        entry.stage = _DECODING
        entry.joined_step = step
        self.decoding += 1
        self._context_base += length - step
        self.ends.note(entry.id, step + entry.limit - length - 1)
        held = len(entry.blocks)
        if held * self.settings.block_tokens < entry.limit - 1:
            self.note_growth(entry)
        if entry.filed_blocks != held or entry.filed is not _RUNNING:
            self.refile(entry)

    def note_growth(self, entry: Entry) -> None:
        """Note when a decoding request needs its next block.

        That is for the position of its token, which comes nearer by one a step, and for those of its
        drafts. The last token of all has no position, since nothing follows it.
        """
        settings, step = self.settings, self.step
        covered = len(entry.blocks) * settings.block_tokens
        if covered < entry.limit - 1:
            due = step + covered - self.length_of(entry) + 1 - settings.drafts
            self.growth.note(entry.id, due if due > step else step)

    def blocks_to_grow(self, entry: Entry) -> int:
        """Blocks that a request lacks for its known tokens and, to decode next, for its drafts."""
        settings, positions = self.settings, entry.length + self.settings.drafts
        if entry.stage is _DECODING:
            positions += self.step - entry.joined_step
        if positions >= entry.limit:
            positions = entry.limit - 1
        return -(-positions // settings.block_tokens) - len(entry.blocks)

    def hurry(self, entry: Entry, tokens: int) -> None:
        """A decoding request was given so many tokens more than one in the step `self.step`."""
        request = entry.id
        entry.length += tokens
        self._context_base += tokens
        last, grows = self.ends.step_of(request), self.growth.step_of(request)
        if last is not None:
            self.ends.note(request, last - tokens)
        if grows is not None:
            self.growth.note(request, max(grows - tokens, self.step + 1))

    def dismiss(self, entry: Entry) -> None:
        """Count a request as neither running nor coming; it keeps its blocks."""
        if entry.stage is _DECODING:
            self.decoding -= 1
            since = entry.joined_step
            self._context_base -= entry.length - since
            entry.length += self.step - since
            self.growth.strike(entry.id)
            self.ends.strike(entry.id)
        elif entry.admitted:
            self._stop_starting(entry)
        if entry.admitted:
            self.running -= 1
            entry.admitted = False
        if entry.stage is _HELD:
            self.held -= 1
        if entry.coming:
            self.uncome(entry)

    def come(self, entry: Entry) -> None:
        """Count a request whose KV is on the way, or there and not yet in the batch."""
        entry.coming = True
        self.coming += 1
        self.coming_tokens += entry.length

    def uncome(self, entry: Entry) -> None:
        """The same, undone."""
        entry.coming = False
        self.coming -= 1
        self.coming_tokens -= entry.length

    def promise(self, entry: Entry) -> None:
        """Renew the count of blocks that an admitted request will still need for its tokens."""
        needs = -(-entry.length // self.settings.block_tokens) - len(entry.blocks)
        if needs < 0:
            needs = 0
        if needs != entry.promised:
            self.promised += needs - entry.promised
            entry.promised = needs

    def refile(self, entry: Entry) -> None:
        """Count the entry's blocks as what they are now; after every change of them or of stage."""
        request, before = entry.id, entry.filed
        count = len(entry.blocks) + entry.promised
        if not count or request in self.flight or entry.stage in _OUTSIDE:
            kind, count = _SAFE, 0
        elif not entry.blocks:
            kind = _PROMISED
        elif entry.admitted or entry.coming:
            kind = _RUNNING
        else:
            kind, count = _IDLE, 0
        if count != entry.filed_blocks:
            priority = entry.order[0]
            total = self.running_blocks.get(priority, 0) + count - entry.filed_blocks
            entry.filed_blocks = count
            if total:
                self.running_blocks[priority] = total
            else:
                del self.running_blocks[priority]
        if kind is not before:
            entry.filed = kind
            if before is not _SAFE:
                self.holders[before].remove(request)
            if kind is not _SAFE:
                self.holders[kind].push(request, entry.order)

    def refile_grown(self, entry: Entry, blocks: int) -> None:
        """The same for a decoding request that was given blocks: the usual change."""
        entry.filed_blocks += blocks
        self.running_blocks[entry.order[0]] += blocks

    def _stop_starting(self, entry: Entry) -> None:
        if not entry.hand_over:
            self.starting -= 1
            self.starting_tokens -= entry.length
        if entry.promised:
            self.promised -= entry.promised
            entry.promised = 0
