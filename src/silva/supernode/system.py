"""A serving system as data: which machine and model, how they are cut up, what overlaps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

from silva.config import setting
from silva.supernode.hardware import Hardware, load_hardware
from silva.supernode.model import Model, load_model
from silva.supernode.sourced import Sourced, at_least, choice, positive, read_sourced, spec_file


@dataclass(frozen=True)
class Precision:
    """Bytes a value. `wide` matrices are those that stay BF16."""

    weight_bytes: float = positive()
    wide_weight_bytes: float = positive()
    cache_bytes: float = positive()
    rope_cache_bytes: float = positive()
    wide_attention: float = at_least(0, 1)
    """Share of attention's products that are BF16; the rest runs at the low-precision peak."""


@dataclass(frozen=True)
class DecodeSetup:
    """One decode instance."""

    overlap: str = choice("cores", "engines", "none")
    """cores: two streams on two parts of the cores. engines: compute, and a network that needs no
    cores. none: one operator after the other."""
    dies: int = positive()
    tensor: int = positive()
    """Dies that share each layer's matrices; the rest of them is data-parallel."""
    redundant: int = at_least(0)
    """Further copies of experts."""
    shared_dies: int = at_least(0)
    """Dies that hold nothing but a copy of the shared expert; 0: every die has one beside."""
    attention_cores: int = at_least(0)
    """Matrix cores of the attention stream where the split is fixed."""
    balance_cores: int = at_least(0, 1)
    drafts: int = at_least(0)
    pipelined_launch: int = at_least(0, 1)
    """1: the CPU starts the next graph while one runs."""
    schedule_ms: float = at_least(0)


@dataclass(frozen=True)
class PrefillSetup:
    """One prefill instance."""

    overlap: str = choice("engines", "none")
    dies: int = positive()
    tensor: int = positive()
    redundant: int = at_least(0)
    sequence_group: int = positive()
    """Dies that cut one packed sequence among them (SP-TP-SP); 1: data-parallel attention."""
    communication_cores: float = at_least(0)
    """Matrix cores that dispatch and combine take away from compute."""
    drafts: int = at_least(0)
    schedule_ms: float = at_least(0)


@dataclass(frozen=True)
class System:
    """One serving system."""

    name: str
    hardware: str
    model: str
    precision: Precision
    decode: DecodeSetup
    prefill: PrefillSetup
    imbalance: float = at_least(1)
    """Load of the hottest die over the mean one."""
    balance_ratio: float = at_least(0, 1)
    """Measured rate of prefill by default over that with experts in balance, which the imbalance is
    fitted on; 0 where it is taken from elsewhere."""
    lost_planes: int = setting(0, help="", low=0)
    """Planes of switches that have failed."""

    @cached_property
    def machine(self) -> Hardware:
        """The machine it runs on, as far as it has not failed."""
        return load_hardware(self.hardware).without_planes(self.lost_planes)

    @cached_property
    def network(self) -> Model:
        """The model it serves."""
        return load_model(self.model)

    @property
    def cache_bytes(self) -> float:
        """Bytes that one token keeps in one layer."""
        return self.network.cache_bytes(self.precision.cache_bytes, self.precision.rope_cache_bytes)


@cache
def load_system(name: str) -> System:
    """The system of that name, or of a .toml file; ConfigError says what is wrong with it."""
    return read_system(name).spec


def load_system_on(name: str, hardware: str | None, model: str | None) -> System:
    """The same on another machine, or with another model, where they are named."""
    found = load_system(name)
    return replace(found, hardware=hardware or found.hardware, model=model or found.model)


def read_system(name: str) -> Sourced[System]:
    """The system and the source of its every figure."""
    return read_sourced(System, spec_file(name, "systems"))
