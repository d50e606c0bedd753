"""Peers of one role that share the experts of a model: each is a rank, and a process of its own.

Ranks that decode have requests of their own. Those that prefill compute each step together: the first
one leads, and the others follow it. What can be wrong with that is said before anything is allocated:
by the settings alone, then by the model's shape.
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

WHERE = {"prefill": "serve.experts.prefill_ranks", "decode": "serve.experts.ranks"}
"""The setting of each role that may be spread."""
FLAGS = {"prefill": "--prefill-ep", "decode": "--ep"}
LEADER = 0
"""The rank whose steps ranks that prefill compute; the front gives requests to no other."""


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


def ranks_of(config: ServeConfig, role: str) -> int:
    """Peers of a role that share the experts; 1: each has all of them."""
    experts = config.experts
    return {"prefill": experts.prefill_ranks, "decode": experts.ranks}.get(role, 1)


def peers_of(config: ServeConfig, role: str) -> int:
    """Peers of a role at first: each rank is one."""
    asked: int = getattr(config.pools, role)
    return asked * ranks_of(config, role)


def computing_peers(config: ServeConfig) -> int:
    """Peers that compute, at first."""
    return peers_of(config, "prefill") + peers_of(config, "decode")


def threads_each(config: ServeConfig) -> int:
    """Threads of one computing peer when all of them share the machine's cores."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // computing_peers(config))


def follows(role: str, rank: int) -> bool:
    """Whether the peer that is this rank computes what another one is asked for."""
    return role == "prefill" and rank != LEADER


def spread_of(config: ServeConfig, role: str) -> Spread:
    """How experts are spread over the peers of a role."""
    from silva.experts.shape import Overlap
    from silva.experts.sizes import Wire
    from silva.experts.spread import Spread

    asked = config.experts
    return Spread(
        ranks_of(config, role),
        asked.redundant,
        cast(Wire, asked.wire),
        asked.local_batch,
        asked.rebalance_s,
        cast(Overlap, asked.overlap),
        staged=role == "prefill",
    )


def numerics(config: ServeConfig) -> str:
    """What, beside their type, makes the values in blocks other ones: tokens that were rounded."""
    spread = _spread_roles(config) and config.experts.wire != "exact"
    return f" wire={config.experts.wire}" if spread else ""


def _spread_roles(config: ServeConfig) -> list[str]:
    return [role for role in WHERE if ranks_of(config, role) > 1]


def check_settings(config: ServeConfig) -> None:
    """Raise ConfigError for settings that do not go with experts on ranks."""
    for role in _spread_roles(config):
        _check_role(config, role)
    patience_s = config.experts.patience_s
    if _spread_roles(config) and patience_s >= config.stuck_s:
        what = f"a peer is ended when a step takes {config.stuck_s:g} s, so none waits as long"
        remedy = "set it below serve.stuck_s"
        raise ConfigError(what, where="serve.experts.patience_s", remedy=remedy)


def _check_role(config: ServeConfig, role: str) -> None:
    where, flag, ranks = WHERE[role], FLAGS[role], ranks_of(config, role)
    asked = getattr(config.pools, role)
    if config.colocated:
        what = "one engine with both roles has no ranks to spread experts over"
        raise ConfigError(what, where=where, remedy=f"leave {flag} or --colocated out")
    if config.roles.auto:
        what = f"{role} peers that share experts do not come and go with the load"
        raise ConfigError(what, where=where, remedy=f"leave {flag} or --auto-roles out")
    if config.forest:
        what = "steps that ranks share are not sorted by adapters yet"
        raise ConfigError(what, where=where, remedy=f"leave {flag} or --forest out")
    if asked > 1:
        what = f"{flag} {ranks} makes {ranks} {role} peers of one, not of {asked}"
        remedy = f"ask for --{role} 1, or leave {flag} out"
        raise ConfigError(what, where=where, remedy=remedy)


def check_directory(config: ServeConfig, model: str) -> None:
    """`check_model` for the directory of a model, before its weights are converted."""
    from silva.models.fetch import KNOWN
    from silva.models.language_config import read_language_config

    folder = os.path.expanduser(model)
    if _spread_roles(config) and model not in KNOWN and os.path.isdir(folder):
        check_model(config, read_language_config(Path(folder)))


def check_model(config: ServeConfig, model: LanguageConfig) -> None:
    """Raise ConfigError where ranks cannot share this model's experts, ServingError where no
    ranks can on this machine.
    """
    for role in _spread_roles(config):
        _check_shape(config, role, model)


def _check_shape(config: ServeConfig, role: str, model: LanguageConfig) -> None:
    import torch

    from silva.experts import wire
    from silva.experts.flags import flags_for
    from silva.experts.forming import check_ranks
    from silva.experts.spread import group_shape
    from silva.experts.stages import check_heads
    from silva.models.deepseek_config import DeepseekConfig

    where, flag = WHERE[role], FLAGS[role]
    if not isinstance(model, DeepseekConfig) or not any(
        map(model.has_experts, range(model.layers))
    ):
        what = "this model has no experts to spread over ranks"
        raise ConfigError(what, where=where, remedy=f"leave {flag} out")
    spread = spread_of(config, role)
    try:
        check_ranks(model.experts, spread.ranks)
        if spread.staged:
            check_heads(model, spread.ranks)
    except ConfigError as error:
        remedy = f"{error.remedy}: see {flag}"
        raise ConfigError(error.what, where=where, remedy=remedy) from error
    try:
        wire.check(group_shape(model, getattr(torch, config.dtype), spread).buffers)
    except ConfigError as error:
        remedy = "leave --wire int8 out"
        raise ConfigError(error.what, where="serve.experts.wire", remedy=remedy) from error
    flags_for()


def check_count(
    config: ServeConfig, role: str, count: int, *, present: int, usable: int, leaving: int
) -> None:
    """Raise ChangeRefusedError where so many peers of a role cannot share the experts.

    There are `present` ones that are wanted, `usable` of them serve. One of the ranks may be missing,
    the others have room for all experts. Who is `leaving` has its place until it has left.
    """
    ranks = ranks_of(config, role)
    if ranks == 1:
        return
    if count not in (ranks - 1, ranks):
        what = f"{count} {role} peers for experts that are spread over {ranks} ranks"
        remedy = (
            f"{ranks - 1} or {ranks} are possible; start the server anew with another {FLAGS[role]}"
        )
        raise ChangeRefusedError(what, remedy=remedy)
    if count < present and usable < present:
        what = f"a {role} peer does not serve: without one more the others may lack experts"
        remedy = f"wait until `silva status` calls all {role} peers ready"
        raise ChangeRefusedError(what, remedy=remedy)
    if count > present and count + leaving > ranks:
        what = f"of the {ranks} ranks {leaving} has not left yet"
        remedy = "wait until `silva status` does not list it any more"
        raise ChangeRefusedError(what, remedy=remedy)
