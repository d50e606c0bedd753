"""Language models as data: shapes from a spec file, and the sizes that follow from them.

Two forms of attention: "latent" (multi-head latent attention, the queries and the cache in low rank)
and "grouped" (keys and values shared by groups of query heads). Counts are numbers of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from silva.supernode.sourced import Sourced, at_least, choice, positive, read_sourced, spec_file


@dataclass(frozen=True)
class Heads:
    """Attention heads; sizes are of one head, ranks of the whole layer (0: full rank)."""

    query: int = positive()
    key: int = positive()
    nope_size: int = at_least(0)
    rope_size: int = at_least(0)
    value_size: int = positive()
    query_rank: int = at_least(0)
    latent_rank: int = at_least(0)

    @property
    def query_size(self) -> int:
        """Width of one query head."""
        return self.nope_size + self.rope_size


@dataclass(frozen=True)
class Experts:
    """Feed-forward experts of a layer; all 0 in a dense model."""

    routed: int = at_least(0)
    shared: int = at_least(0)
    chosen: int = at_least(0)
    inner: int = at_least(0)
    groups: int = at_least(0)
    groups_chosen: int = at_least(0)


@dataclass(frozen=True)
class Model:
    """One language model."""

    name: str
    heads: Heads
    experts: Experts
    attention: str = choice("latent", "grouped")
    layers: int = positive()
    dense_layers: int = at_least(0)
    hidden: int = positive()
    dense_inner: int = at_least(0)
    vocabulary: int = positive()
    drafts: int = at_least(0)
    """Modules that predict a further token, each one more layer."""

    @property
    def is_latent(self) -> bool:
        """Whether the cache holds one latent a token instead of keys and values of heads."""
        return self.attention == "latent"

    @property
    def is_dense(self) -> bool:
        """Whether no layer has experts."""
        return self.dense_layers >= self.layers

    @property
    def expert_layers(self) -> int:
        """Layers whose feed-forward part is a mixture of experts."""
        return self.layers - self.dense_layers

    @cached_property
    def attention_parts(self) -> dict[str, int]:
        """Weights of one layer's projections, by name."""
        h, d = self.heads, self.hidden
        if self.is_latent:
            return {
                "q_a": d * h.query_rank,
                "q_b": h.query_rank * h.query * h.query_size,
                "kv_a": d * (h.latent_rank + h.rope_size),
                "kv_b": h.latent_rank * h.query * (h.nope_size + h.value_size),
                "o": h.query * h.value_size * d,
            }
        return {
            "q": d * h.query * h.query_size,
            "kv": d * h.key * (h.query_size + h.value_size),
            "o": h.query * h.value_size * d,
        }

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's projections."""
        return sum(self.attention_parts.values())

    @property
    def expert_weights(self) -> int:
        """Weights of one expert in one layer: gate, up and down."""
        return 3 * self.hidden * self.experts.inner

    @property
    def dense_weights(self) -> int:
        """Weights of one dense feed-forward part."""
        return 3 * self.hidden * self.dense_inner

    @property
    def gate_weights(self) -> int:
        """Weights that choose among the experts of one layer."""
        return self.hidden * self.experts.routed

    @property
    def embedding_weights(self) -> int:
        """Weights of the embedding, and again of the head."""
        return self.vocabulary * self.hidden

    @property
    def weights(self) -> int:
        """All weights of matrices, draft modules left out."""
        experts = (self.experts.routed + self.experts.shared) * self.expert_weights
        return (
            self.layers * self.attention_weights
            + self.expert_layers * (experts + self.gate_weights)
            + self.dense_layers * self.dense_weights
            + 2 * self.embedding_weights
        )

    @property
    def cache_values(self) -> int:
        """Values that one token keeps in one layer."""
        h = self.heads
        if self.is_latent:
            return h.latent_rank + h.rope_size
        return h.key * (h.query_size + h.value_size)

    def cache_bytes(self, value_bytes: float = 2.0, rope_bytes: float = 2.0) -> float:
        """Bytes that one token keeps in one layer; the rotary part of a latent may be wider."""
        if not self.is_latent:
            return self.cache_values * value_bytes
        return self.heads.latent_rank * value_bytes + self.heads.rope_size * rope_bytes


@cache
def load_model(name: str) -> Model:
    """The model of that name, or of a .toml file; ConfigError says what is wrong with it."""
    return read_model(name).spec


def read_model(name: str) -> Sourced[Model]:
    """The model and the source of its every figure."""
    return read_sourced(Model, spec_file(name, "models"))
