"""What a language model keeps of each token, in each layer: the fact by which its memory is laid out.

Bytes a token and layer are `elements` times those of the model's type.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Heads:
    """A key and a value for each of some heads (silva.models.attention)."""

    kv_heads: int
    key_size: int
    value_size: int

    @property
    def elements(self) -> int:
        """Values of one token in one layer."""
        return self.kv_heads * (self.key_size + self.value_size)


@dataclass(frozen=True)
class Latent:
    """One vector that keys and values of all heads are made from (silva.models.latent)."""

    size: int

    @property
    def elements(self) -> int:
        """Values of one token in one layer."""
        return self.size


Kept = Heads | Latent
