"""An owner in a process of its own, told what to do by one JSON line at a time.

python owner_process.py shm|tcp
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from silva.transfer import Exposed, Region, open_transfer

SECRET = b"a secret that only tests know"


def main() -> None:
    transfer = open_transfer(sys.argv[1], SECRET)
    regions: dict[Region, Exposed] = {}
    for line in sys.stdin:
        reply: Any = None
        match msgspec.json.decode(line):
            case ["expose", content]:
                data = msgspec.convert(content, bytes)
                exposed = transfer.allocate(len(data))
                exposed.buffer[:] = data
                regions[exposed.region] = exposed
                reply = exposed.region
            case ["piece", region, offset, length]:
                reply = regions[msgspec.convert(region, Region)].piece(offset, length)
            case ["write", region, offset, content]:
                data = msgspec.convert(content, bytes)
                buffer = regions[msgspec.convert(region, Region)].buffer
                buffer[offset : offset + len(data)] = data
            case ["close", region]:
                regions.pop(msgspec.convert(region, Region)).close()
        print(msgspec.json.encode(reply).decode(), flush=True)


if __name__ == "__main__":
    main()
