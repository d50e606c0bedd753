"""What identifies a block, in memory and on disk."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

KEY_BYTES = 32
"""A block's key is a SHA-256 chain (`silva.control.prefix`)."""
SPACE_BYTES = 16


class BlockId(NamedTuple):
    """A key in a namespace. The key covers the namespace too; here it is checked once more."""

    space: str
    """Digest of the namespace in hexadecimal: names of API keys do not appear on disk."""
    key: bytes

    @property
    def shard(self) -> str:
        """The folder that the block's file lies in, one of 256."""
        return f"{self.key[0]:02x}"

    @property
    def file_name(self) -> str:
        return f"{self.key.hex()}-{self.space}.kv"


_FILE = re.compile(rf"([0-9a-f]{{{2 * KEY_BYTES}}})-([0-9a-f]{{{2 * SPACE_BYTES}}})\.kv")


def space_of(namespace: str) -> str:
    """How a namespace is called inside the cache."""
    return hashlib.sha256(namespace.encode()).digest()[:SPACE_BYTES].hex()


def block_id(space: str, key: bytes) -> BlockId:
    """ValueError unless the key has the length of one."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    return BlockId(space, key)


def parse_file_name(name: str) -> BlockId | None:
    """Whose block a file holds; None for a name that is not one of ours."""
    match = _FILE.fullmatch(name)
    return BlockId(match[2], bytes.fromhex(match[1])) if match else None
