"""Decode peers that share the experts of a model: each is a rank, and a process of its own.

What can be wrong with that is said before anything is allocated: by the settings alone, then by the
model's shape.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, cast

from silva.errors import ConfigError
from silva.serving.backend import ChangeRefusedError
from silva.serving.config import ServeConfig

if TYPE_CHECKING:
    from silva.experts.spread import Spread
    from silva.models.language import LanguageConfig

RANKS = "serve.experts.ranks"


class Ranks:
    """Which peer is which rank, through all the processes that it has."""

    def __init__(self) -> None:
        self._by_name: dict[str, int] = {}

    def of(self, name: str, present: Collection[str]) -> int:
        """The rank of a peer: the lowest that no other peer that is `present` has."""
        self._by_name = {n: rank for n, rank in self._by_name.items() if n in present or n == name}
        if name not in self._by_name:
            taken = set(self._by_name.values())
            self._by_name[name] = next(n for n in itertools.count() if n not in taken)
        return self._by_name[name]


def spread_of(config: ServeConfig) -> Spread:
    """How experts are spread."""
    from silva.experts.shape import Overlap
    from silva.experts.sizes import Wire
    from silva.experts.spread import Spread

    asked = config.experts
    return Spread(
        asked.ranks,
        asked.redundant,
        cast(Wire, asked.wire),
        asked.local_batch,
        asked.rebalance_s,
        cast(Overlap, asked.overlap),
    )


def decode_peers(config: ServeConfig) -> int:
    """Peers that decode at first: each rank is one."""
    return config.pools.decode * config.experts.ranks


def numerics(config: ServeConfig) -> str:
    """What, beside their type, makes the values in blocks other ones: tokens that were rounded."""
    experts = config.experts
    return f" wire={experts.wire}" if experts.ranks > 1 and experts.wire != "exact" else ""


def check_settings(config: ServeConfig) -> None:
    """Raise ConfigError for settings that do not go with experts on ranks."""
    experts, decode = config.experts, config.pools.decode
    if experts.ranks == 1:
        return
    if config.colocated:
        what = "one engine with both roles has no ranks to spread experts over"
        raise ConfigError(what, where=RANKS, remedy="leave --ep or --colocated out")
    if config.roles.auto:
        what = "decode peers that share experts do not come and go with the load"
        raise ConfigError(what, where=RANKS, remedy="leave --ep or --auto-roles out")
    if config.forest:
        what = "steps that ranks share are not sorted by adapters yet"
        raise ConfigError(what, where=RANKS, remedy="leave --ep or --forest out")
    if decode > 1:
        what = f"--ep {experts.ranks} makes {experts.ranks} decode peers of one, not of {decode}"
        raise ConfigError(what, where=RANKS, remedy="ask for --decode 1, or leave --ep out")
    if experts.patience_s >= config.stuck_s:
        what = f"a peer is ended when a step takes {config.stuck_s:g} s, so none waits as long"
        remedy = "set it below serve.stuck_s"
        raise ConfigError(what, where="serve.experts.patience_s", remedy=remedy)


def check_directory(config: ServeConfig, model: str) -> None:
    """`check_model` for the directory of a model, before its weights are converted."""
    from silva.models.fetch import KNOWN
    from silva.models.language_config import read_language_config

    folder = os.path.expanduser(model)
    if config.experts.ranks > 1 and model not in KNOWN and os.path.isdir(folder):
        check_model(config, read_language_config(Path(folder)))


def check_model(config: ServeConfig, model: LanguageConfig) -> None:
    """Raise ConfigError where ranks cannot share this model's experts, ServingError where no
    ranks can on this machine.
    """
    if config.experts.ranks == 1:
        return
    import torch

    from silva.experts import wire
    from silva.experts.flags import flags_for
    from silva.experts.forming import check_ranks
    from silva.experts.spread import group_shape
    from silva.models.deepseek_config import DeepseekConfig

    if not isinstance(model, DeepseekConfig) or not any(
        map(model.has_experts, range(model.layers))
    ):
        what = "this model has no experts to spread over ranks"
        raise ConfigError(what, where=RANKS, remedy="leave --ep out")
    try:
        check_ranks(model.experts, config.experts.ranks)
    except ConfigError as error:
        remedy = f"{error.remedy}: see --ep"
        raise ConfigError(error.what, where=RANKS, remedy=remedy) from error
    try:
        wire.check(group_shape(model, getattr(torch, config.dtype), spread_of(config)).buffers)
    except ConfigError as error:
        remedy = "leave --wire int8 out"
        raise ConfigError(error.what, where="serve.experts.wire", remedy=remedy) from error
    flags_for()


def check_count(
    config: ServeConfig, decode: int, *, present: int, usable: int, leaving: int
) -> None:
    """Raise ChangeRefusedError where so many decode peers cannot share the experts.

    There are `present` ones that are wanted, `usable` of them serve. One of the ranks may be missing,
    the others have room for all experts. Who is `leaving` has its place until it has left.
    """
    ranks = config.experts.ranks
    if ranks == 1:
        return
    if decode not in (ranks - 1, ranks):
        what = f"{decode} decode peers for experts that are spread over {ranks} ranks"
        remedy = f"{ranks - 1} or {ranks} are possible; start the server anew with another --ep"
        raise ChangeRefusedError(what, remedy=remedy)
    if decode < present and usable < present:
        what = "a decode peer does not serve: without one more the others may lack experts"
        remedy = "wait until `silva status` calls all decode peers ready"
        raise ChangeRefusedError(what, remedy=remedy)
    if decode > present and decode + leaving > ranks:
        what = f"of the {ranks} ranks {leaving} has not left yet"
        remedy = "wait until `silva status` does not list it any more"
        raise ChangeRefusedError(what, remedy=remedy)
