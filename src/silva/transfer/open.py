"""Choose the transfer of a run by its name."""

from __future__ import annotations

from typing import Literal, get_args

from silva.errors import ConfigError
from silva.transfer.base import READ_TIMEOUT_S, Transfer

Kind = Literal["shm", "tcp"]


def open_transfer(kind: str, secret: bytes, *, timeout_s: float = READ_TIMEOUT_S) -> Transfer:
    """A process's transfer; all peers of a run have the same kind and secret.

    secret  at least 16 random bytes, which only the run's processes know; shm has no need of it

    Raises ConfigError for an unknown kind, or when the kernel does not support it.
    """
    if kind == "shm":
        from silva.transfer.shm import ShmTransfer

        return ShmTransfer(timeout_s=timeout_s)
    if kind == "tcp":
        from silva.transfer.tcp import TcpTransfer

        return TcpTransfer(secret, timeout_s=timeout_s)
    what = f"--transfer is {kind!r}"
    raise ConfigError(what, remedy=f"use one of {', '.join(get_args(Kind))}")
