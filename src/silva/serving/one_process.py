"""A server that is one process: there are no peers to start, stop or move."""

from __future__ import annotations

from collections.abc import Mapping

from silva.serving.backend import ChangeRefusedError


class OneProcess:
    """The verbs of `Serving` that change peers; all are refused."""

    def __init__(self, what: str, remedy: str) -> None:
        """`what` there is in place of peers."""
        self._refusal = (what, remedy)

    async def scale(self, roles: Mapping[str, int]) -> None:
        """See Serving; always refused."""
        raise self._refused()

    async def drain(self, peer: str) -> None:
        """See Serving; always refused."""
        raise self._refused()

    async def switch(self, peer: str, role: str) -> None:
        """See Serving; always refused."""
        raise self._refused()

    def _refused(self) -> ChangeRefusedError:
        what, remedy = self._refusal
        return ChangeRefusedError(what, remedy=remedy)
