"""Ids of requests: taken from the client where it gives a proper one, and shown in every log line.

The id of a request on the way to the peers is longer than the one a client knows: clients may use
theirs twice.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"

_PROPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TRACE = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_counter = itertools.count(1)


@dataclass(frozen=True)
class RequestId:
    """Under which names a request goes."""

    shown: str
    """To the client and in logs."""
    unique: str
    """Among all requests of this process: `shown`, the trace id where that is another, and a
    number. Peers log it, so both can be searched for there.
    """
    trace: str = ""
    """Trace id of W3C's trace context, if the client sent one."""

    def of_answer(self, index: int) -> str:
        """The id of one answer, as the peers know it."""
        return f"{self.unique}.{index}"


current: ContextVar[RequestId | None] = ContextVar("silva_request_id", default=None)
"""The request that the running task serves."""


def request_id(headers: Mapping[str, str]) -> RequestId:
    """From `x-request-id`, else the trace id of `traceparent`, else a new one.

    A header that is not well formed counts as not sent.
    """
    trace = _trace_id(headers.get(TRACEPARENT, ""))
    given = headers.get(REQUEST_ID, "")
    shown = given if _PROPER.fullmatch(given) else trace or f"req-{secrets.token_hex(8)}"
    names = [shown, *([trace] if trace not in ("", shown) else []), f"{next(_counter):x}"]
    return RequestId(shown, ":".join(names), trace)


def _trace_id(header: str) -> str:
    """https://www.w3.org/TR/trace-context: version, trace id, parent id, flags."""
    match = _TRACE.fullmatch(header.strip()[:128])
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return ""
    return "" if set(match[2]) == {"0"} or set(match[3]) == {"0"} else match[2]


class RequestIdFilter(logging.Filter):
    """Gives every record `request_id` and `trace_id`, "-" outside a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = current.get()
        record.request_id = found.shown if found else "-"
        record.trace_id = (found.trace if found else "") or "-"
        return True
