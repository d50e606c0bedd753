"""Pure decisions of serving: no tensors, sockets, processes or clock of their own.

Verbs are called by their module, `scheduler.add(state, request)`; see `silva.control.scheduler`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silva.control.admission import Admission
    from silva.control.blocks import BlockPool
    from silva.control.eviction import TierPolicy
    from silva.control.handover import Reservation
    from silva.control.lease import Lease, LeaseExpiredError, Leases
    from silva.control.mapping import Health, PeerLoad, Role
    from silva.control.measured import MeasuredStepTime
    from silva.control.prefix import CacheIdentity
    from silva.control.request import (
        Chunk,
        FinishReason,
        Output,
        Phases,
        Plan,
        Request,
        Sampled,
        SamplingParams,
        StepResult,
        StoredBlock,
        TokenLogprob,
    )
    from silva.control.ring import Ring
    from silva.control.scaling import Move, RoleController, Scaling, Window
    from silva.control.scheduler import Ended, Update
    from silva.control.slo import LinearStepTime, Load, StepTime, Trade
    from silva.control.state import Counts, Settings, State

_HOMES = {
    "Admission": "admission",
    "BlockPool": "blocks",
    "CacheIdentity": "prefix",
    "Chunk": "request",
    "Counts": "state",
    "Ended": "scheduler",
    "FinishReason": "request",
    "Health": "mapping",
    "Lease": "lease",
    "LeaseExpiredError": "lease",
    "Leases": "lease",
    "LinearStepTime": "slo",
    "Load": "slo",
    "MeasuredStepTime": "measured",
    "Move": "scaling",
    "Output": "request",
    "PeerLoad": "mapping",
    "Phases": "request",
    "Plan": "request",
    "Request": "request",
    "Reservation": "handover",
    "Ring": "ring",
    "Role": "mapping",
    "RoleController": "scaling",
    "Sampled": "request",
    "SamplingParams": "request",
    "Scaling": "scaling",
    "Settings": "state",
    "State": "state",
    "StepResult": "request",
    "StepTime": "slo",
    "StoredBlock": "request",
    "TierPolicy": "eviction",
    "TokenLogprob": "request",
    "Trade": "slo",
    "Update": "scheduler",
    "Window": "scaling",
}
__all__ = [
    "Admission",
    "BlockPool",
    "CacheIdentity",
    "Chunk",
    "Counts",
    "Ended",
    "FinishReason",
    "Health",
    "Lease",
    "LeaseExpiredError",
    "Leases",
    "LinearStepTime",
    "Load",
    "MeasuredStepTime",
    "Move",
    "Output",
    "PeerLoad",
    "Phases",
    "Plan",
    "Request",
    "Reservation",
    "Ring",
    "Role",
    "RoleController",
    "Sampled",
    "SamplingParams",
    "Scaling",
    "Settings",
    "State",
    "StepResult",
    "StepTime",
    "StoredBlock",
    "TierPolicy",
    "TokenLogprob",
    "Trade",
    "Update",
    "Window",
]


def __getattr__(name: str) -> Any:
    # Names are looked up late: who needs one noun does not load the whole scheduler.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
