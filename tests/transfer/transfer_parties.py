"""An owner and how to mistreat it, the same for every transfer: what the conformance test drives."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import msgspec
from owner_process import SECRET

from silva.transfer import Exposed, Piece, Region, Transfer, open_transfer
from silva.transfer.memory import MemoryNetwork, MemoryTransfer

KINDS = ("memory", "shm", "tcp")


class Owner(Protocol):
    """Somebody else's memory."""

    def expose(self, content: bytes) -> Region: ...
    def piece(self, region: Region, offset: int, length: int) -> Piece: ...
    def write(self, region: Region, offset: int, content: bytes) -> None: ...
    def close(self, region: Region) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...
    def resume(self) -> None: ...
    def end(self) -> None: ...


class ProcessOwner:
    """An owner in another process: shm and tcp."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("owner_process.py")), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _ask(self, kind: Any, *command: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(msgspec.json.encode(command) + b"\n")
        self.process.stdin.flush()
        return msgspec.json.decode(self.process.stdout.readline(), type=kind)

    def expose(self, content: bytes) -> Region:
        return self._ask(Region, "expose", content)

    def piece(self, region: Region, offset: int, length: int) -> Piece:
        return self._ask(Piece, "piece", region, offset, length)

    def write(self, region: Region, offset: int, content: bytes) -> None:
        self._ask(None, "write", region, offset, content)

    def close(self, region: Region) -> None:
        self._ask(None, "close", region)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.kill()
        self.process.communicate()


class MemoryOwner:
    """The fake's owner."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.transfer = MemoryTransfer(network)
        self.regions: dict[Region, Exposed] = {}

    def expose(self, content: bytes) -> Region:
        exposed = self.transfer.allocate(len(content))
        exposed.buffer[:] = content
        self.regions[exposed.region] = exposed
        return exposed.region

    def piece(self, region: Region, offset: int, length: int) -> Piece:
        return self.regions[region].piece(offset, length)

    def write(self, region: Region, offset: int, content: bytes) -> None:
        self.regions[region].buffer[offset : offset + len(content)] = content

    def close(self, region: Region) -> None:
        self.regions.pop(region).close()

    def kill(self) -> None:
        self.transfer.faults.dead = True

    def stop(self) -> None:
        self.transfer.faults.stopped = True

    def resume(self) -> None:
        self.transfer.faults.stopped = False

    def end(self) -> None:
        self.transfer.close()


class Parties:
    """Owners of one kind and a reader of theirs; ended together."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._network = MemoryNetwork()
        self._owners: list[Owner] = []
        self.reader: Transfer
        if kind == "memory":
            self.reader = MemoryTransfer(self._network)
        else:
            self.reader = open_transfer(kind, SECRET)

    def owner(self) -> Owner:
        memory = self.kind == "memory"
        owner: Owner = MemoryOwner(self._network) if memory else ProcessOwner(self.kind)
        self._owners.append(owner)
        return owner

    def end(self) -> None:
        self.reader.close()
        for owner in self._owners:
            owner.end()
