"""The process that renders chat templates; run as a script, it imports nothing of silva.

A chat template is a program that came with a model. Jinja's sandbox keeps it from files and from
Python's insides; this process keeps its memory within a limit, and the system ends it when a
rendering takes too much processor time. Requests and answers are JSON behind their length, on the
socket that is stdin.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

LARGEST_MEMORY_BYTES = 1 << 30
"""Address space of the process; Python itself takes less than a tenth."""

LARGEST_RESULT = 8 << 20
"""Characters of a rendered chat."""

LENGTH_BYTES = 8


class Generation(Extension):
    """``{% generation %}``, which marks the model's own words for training: here mere brackets."""

    tags = {"generation"}  # noqa: RUF012  (declared so by Jinja)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Any) -> Any:
        return caller()


def refuse(message: str) -> None:
    """`raise_exception` of the templates: these messages are not for this model."""
    raise RefusedError(message)


class RefusedError(jinja2.TemplateError):
    """The template itself refuses the messages."""


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """`tojson` of the templates; Jinja's own escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja as chat templates expect it: the settings and helpers of transformers."""
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    found.filters["tojson"] = to_json
    found.globals["raise_exception"] = refuse
    found.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return found


ENVIRONMENT = environment()


@lru_cache(maxsize=8)
def compiled(source: str) -> jinja2.Template:
    """The template of `source`, compiled once."""
    return ENVIRONMENT.from_string(source)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """One of: text, what was rendered; broken, why the template is none; refused or failed, why
    these messages cannot be rendered."""
    try:
        template = compiled(request["source"])
    except Exception as error:
        return {"broken": _line(error)}
    if request.get("variables") is None:
        return {"text": ""}
    try:
        pieces, length = [], 0
        for piece in template.generate(**request["variables"]):
            pieces.append(piece)
            length += len(piece)
            if length > LARGEST_RESULT:
                return {"failed": f"it writes more than {LARGEST_RESULT} characters"}
        return {"text": "".join(pieces)}
    except RefusedError as error:
        return {"refused": _line(error)}
    except Exception as error:  # whatever a stranger's program runs into
        return {"failed": _line(error)}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def receive(connection: socket.socket) -> bytes | None:
    """The next request; None when the other side is gone."""
    length = _exactly(connection, LENGTH_BYTES)
    return None if length is None else _exactly(connection, int.from_bytes(length, "little"))


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    found = bytearray()
    while len(found) < size:
        piece = connection.recv(min(size - len(found), 1 << 20))
        if not piece:
            return None
        found += piece
    return bytes(found)


def main() -> None:
    """Answer until the other side goes away."""
    # Signals for the whole group: whoever asks may have to finish something first, and ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=sys.stdin.fileno())
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST_MEMORY_BYTES, LARGEST_MEMORY_BYTES))
    connection.sendall(b"\1")  # ready: what follows is timed
    while (content := receive(connection)) is not None:
        request = json.loads(content)
        # SIGPROF has no handler: it ends the process, also in the middle of one long operation
        signal.setitimer(signal.ITIMER_PROF, request["limit_s"])
        found = json.dumps(answer(request)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.sendall(len(found).to_bytes(LENGTH_BYTES, "little") + found)


if __name__ == "__main__":
    main()
