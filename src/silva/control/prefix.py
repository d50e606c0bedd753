"""Keys of KV blocks by content, and which block of one pool holds which key.

    identity = CacheIdentity(model_digest, numerics="float32", block_tokens=16)
    keys = identity.keys(request)          # one for each full block of prompt + emitted

A key is a SHA-256 chain: equal keys mean equal tokens from position 0 on, under the same model,
numerics, adapters and namespace, so that the KV is equal too. Names are never part of it (Mooncake
and CloudMatrix-Infer, section 4.7, chain alike).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from silva.control.request import Request

FORMAT_VERSION = 1
"""Counts changes of the layout of a block or of this encoding: older blocks are never found."""


@dataclass(frozen=True)
class CacheIdentity:
    """What the KV of a model depends on besides the request: two that differ share no block."""

    model_digest: str
    """Digest of the weights as they are computed with, quantisation among them."""
    numerics: str
    """Type of the arithmetic and of the KV, "float32" or "bfloat16/int8", as the engine says it."""
    block_tokens: int

    def root(self, path: tuple[str, ...] = (), namespace: str = "") -> bytes:
        """The key before the first block of requests of one adapter path and one namespace."""
        return root_key(self.model_digest, self.numerics, self.block_tokens, path, namespace)

    def keys(self, request: Request) -> tuple[bytes, ...]:
        """Keys of all full blocks of a request's prompt and the tokens it has been given."""
        root = self.root(request.path, request.namespace)
        return chain(root, request.prompt + request.emitted, self.block_tokens)


@lru_cache(maxsize=4096)
def root_key(
    model_digest: str, numerics: str, block_tokens: int, path: tuple[str, ...], namespace: str
) -> bytes:
    """SHA-256 of all fields, each with its length before it, so that no two inputs collide.

    Raises ValueError for fewer than one token a block.
    """
    if block_tokens < 1:
        raise ValueError(f"block_tokens must be at least 1, but is {block_tokens}")
    tiers = "".join(f"{len(digest)}:{digest}" for digest in path)
    fields = (model_digest, numerics, tiers, namespace)
    digest = sha256(struct.pack("<16sII", b"silva kv root", FORMAT_VERSION, block_tokens))
    for text in fields:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(struct.pack("<Q", len(content)))
        digest.update(content)
    return digest.digest()


def chain(root: bytes, tokens: Sequence[int], block_tokens: int) -> tuple[bytes, ...]:
    """Keys of the full blocks of `tokens`, 32 bytes each; a last, partial block has none.

    Raises ValueError for a token outside [0, 2^32).
    """
    return extend(root, (), tokens, block_tokens)


def extend(
    root: bytes, keys: Sequence[bytes], tokens: Sequence[int], block_tokens: int
) -> tuple[bytes, ...]:
    """`chain(root, tokens, ...)` where `keys`, those of a prefix of `tokens`, are known already.

    Costs only the new blocks' hashes. The caller vouches for `keys`; ValueError when there are more
    of them than `tokens` has full blocks.
    """
    blocks = len(tokens) // block_tokens
    if len(keys) > blocks:
        raise ValueError(f"{len(keys)} keys, but only {blocks} full blocks")
    pack = struct.Struct(f"<16s{len(root)}s{block_tokens}I").pack
    out = list(keys)
    key = out[-1] if out else root
    for start in range(len(out) * block_tokens, blocks * block_tokens, block_tokens):
        try:
            block = pack(b"silva kv block", key, *tokens[start : start + block_tokens])
        except struct.error as error:
            raise ValueError(f"tokens {start} and after: {error}") from error
        key = sha256(block).digest()
        out.append(key)
    return tuple(out)


class PrefixIndex:
    """Which block of one pool holds which key, and which keys are being made right now.

    A key in the making has a maker, the request that computes or fetches its block, and requests
    that wait for it. `complete` and `withdraw` end that and return who waited.
    """

    def __init__(self) -> None:
        self._blocks: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}
        self._makers: dict[bytes, str] = {}
        self._waiters: dict[bytes, dict[str, None]] = {}

    def __len__(self) -> int:
        """Keys whose blocks are complete."""
        return len(self._blocks)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._blocks)

    def find(self, key: bytes) -> int | None:
        """The block that holds the key, complete; None when there is none."""
        return self._blocks.get(key)

    def key_of(self, block: int) -> bytes | None:
        """The key under which a block is found, if it is."""
        return self._keys.get(block)

    def maker(self, key: bytes) -> str | None:
        """The request that makes the key's block right now."""
        return self._makers.get(key)

    def begin(self, key: bytes, maker: str) -> None:
        """A request makes this key's block from now on. ValueError when it is there or made."""
        if key in self._blocks or key in self._makers:
            raise ValueError(f"key {key.hex()[:16]} is there, or in the making")
        self._makers[key] = maker

    def wait(self, key: bytes, request: str) -> None:
        """A request waits for a key in the making. ValueError when nobody makes it."""
        if key not in self._makers:
            raise ValueError(f"nobody makes key {key.hex()[:16]}")
        self._waiters.setdefault(key, {})[request] = None

    def unwait(self, key: bytes, request: str) -> None:
        """The request no longer waits."""
        waiting = self._waiters.get(key, {})
        waiting.pop(request, None)
        if not waiting:
            self._waiters.pop(key, None)

    def complete(self, key: bytes, block: int, maker: str) -> tuple[tuple[str, ...], bool]:
        """The block holds the key's content: who waited, and whether the block was entered.

        It is not entered where another block holds the key already. Where `maker` is not the one
        who makes the key nobody is woken: the one who does will say so itself.
        """
        entered = key not in self._blocks and block not in self._keys
        if entered:
            self._blocks[key] = block
            self._keys[block] = key
        woken = self.withdraw(key, maker)
        return woken, entered

    def withdraw(self, key: bytes, maker: str) -> tuple[str, ...]:
        """`maker` does not make the key any more: who waited for it."""
        if self._makers.get(key) != maker:
            return ()
        del self._makers[key]
        return tuple(self._waiters.pop(key, ()))

    def evict(self, block: int) -> None:
        """The block gets other content: its key is not found any more."""
        del self._blocks[self._keys.pop(block)]
