"""Shape of a Llama-shaped model: from the `config.json` of Llama, Mistral, Qwen2 and Qwen3."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from silva.errors import ModelError
from silva.models.config_fields import CONFIG, Fields, read_files, shape_digest
from silva.models.fields import refused, short
from silva.models.kept import Heads

_HIGHEST = {
    "vocab_size": 1 << 22,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 19,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 1024,
    "max_position_embeddings": 1 << 24,
    "sliding_window": 1 << 24,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "eos_token_id": 2, "bos_token_id": 1},
    "mistral": {
        "max_position_embeddings": 131_072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "eos_token_id": 2,
        "bos_token_id": 1,
    },
    "qwen2": {"max_position_embeddings": 32_768, "num_key_value_heads": 32},
    "qwen3": {"max_position_embeddings": 32_768, "num_key_value_heads": 32, "head_dim": 128},
}
"""Model types and what transformers takes for a field that their `config.json` leaves out."""

_CONTEXT_ALONE = ("default", "dynamic")
"""Within `max_position_embeddings`, dynamic scaling changes nothing; silva goes no further."""


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (arXiv 2104.09864) and how its frequencies are scaled.

    linear: all of them divided by `factor`. llama3: those with wavelengths beyond
    ``original_context / low_freq_factor`` divided by `factor`, those below ``original_context /
    high_freq_factor`` kept, a blend between.
    """

    theta: float = 10_000.0
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class LlamaConfig:
    """Shape of the model, and the tokens that end an answer."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    context: int
    """Positions in tokens; of a model with a sliding window, the window, within which attention is
    full and the answers are the model's own."""
    norm_eps: float = 1e-6
    rope: Rope = Rope()
    qkv_bias: bool = False
    output_bias: bool = False
    """Of the attention's output projection."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """Whether queries and keys pass an RMS norm in each head (Qwen3)."""
    tied: bool = False
    """Whether the head is the embedding."""
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None

    @property
    def kept(self) -> Heads:
        """Keys and values of all heads that have their own."""
        return Heads(self.kv_heads, self.head_size, self.head_size)

    @property
    def drafts(self) -> int:
        """No modules for multi-token prediction."""
        return 0

    def digest(self) -> str:
        """SHA-256 of what turns the same weights into another function; end tokens do not."""
        return shape_digest(asdict(self))


def read_config(folder: Path) -> LlamaConfig:
    """The configuration of a Hugging Face directory. Raises ModelError naming file and field.

    Where there is a `generation_config.json`, its end tokens count.
    """
    raw, generation = read_files(folder)
    config = llama_config(raw, folder / CONFIG)
    if "eos_token_id" not in generation:
        return config
    return replace(config, eos_ids=generation.tokens("eos_token_id", config.vocab_size))


def llama_config(raw: dict[str, Any], where: object) -> LlamaConfig:
    """The shape that `config.json` describes. Raises ModelError naming the field."""
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ModelError(
            f"model_type is {short(family)}",
            where=where,
            remedy=f"silva reads language models of the types {', '.join(FAMILIES)}",
        )
    if raw.get("quantization_config") is not None:
        raise refused("quantization_config", "quantised safetensors are not read", where)
    if raw.get("hidden_act", "silu") != "silu":
        raise refused("hidden_act", f"{short(raw['hidden_act'])} is not silu", where)
    values = {**FAMILIES[family], **{k: v for k, v in raw.items() if v is not None}}
    f = Fields(values, where)
    hidden = _size(f, "hidden_size")
    heads = _size(f, "num_attention_heads")
    kv_heads = _size(f, "num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise refused("num_key_value_heads", f"{heads} heads do not share {kv_heads}", where)
    head_size = _size(f, "head_dim", default=max(hidden // heads, 1))
    if head_size % 2:
        raise refused("head_dim", f"{head_size} is odd, and positions rotate pairs", where)
    vocab_size = _size(f, "vocab_size")
    bias = f.flag("attention_bias", False)
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=_size(f, "intermediate_size"),
        layers=_size(f, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        context=_context(f, values, raw),
        norm_eps=f.real("rms_norm_eps", 0.0, 1.0, default=1e-6),
        rope=_rope(f, values),
        qkv_bias=family == "qwen2" or (family != "mistral" and bias),
        output_bias=family in ("llama", "qwen3") and bias,
        mlp_bias=family == "llama" and f.flag("mlp_bias", False),
        qk_norm=family == "qwen3",
        tied=f.flag("tie_word_embeddings", False),
        eos_ids=f.tokens("eos_token_id", vocab_size),
        bos_id=f.token("bos_token_id", vocab_size),
    )


def _size(f: Fields, name: str, default: int | None = None) -> int:
    return f.size(name, _HIGHEST[name], default)


def _context(f: Fields, values: dict[str, Any], raw: dict[str, Any]) -> int:
    """The longest sequence in which every layer's attention is full attention."""
    context = _size(f, "max_position_embeddings")
    kinds = values.get("layer_types", ())
    if not isinstance(kinds, list | tuple) or any(
        kind not in ("full_attention", "sliding_attention") for kind in kinds
    ):
        raise refused("layer_types", "other than full and sliding attention", f.where)
    if raw["model_type"] == "mistral":
        # null switches the window off; a field that is not there means the default
        slides = "sliding_window" not in raw or raw["sliding_window"] is not None
    else:
        slides = f.flag("use_sliding_window", False) or "sliding_attention" in kinds
    if not slides:
        return context
    return min(context, _size(f, "sliding_window", default=4096))


def _rope(f: Fields, values: dict[str, Any]) -> Rope:
    """From transformers 5's `rope_parameters`, or 4's `rope_theta` and `rope_scaling`."""
    name = "rope_parameters" if "rope_parameters" in f else "rope_scaling"
    scaling = values.get(name, {})
    if not isinstance(scaling, dict):
        raise refused(name, f"{short(scaling)} is no table", f.where)
    before = "original_max_position_embeddings"
    inherited = {
        "rope_theta": values.get("rope_theta", 10_000.0),
        before: values["max_position_embeddings"],
    }
    # null in the table itself does not stand for what is outside of it
    r = Fields({**inherited, **scaling}, f.where)
    theta = r.real("rope_theta", 1.0, 1e12)
    for table in (values, scaling):
        if table.get("partial_rotary_factor", 1.0) != 1.0:
            raise refused("partial_rotary_factor", "silva rotates whole heads", f.where)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in _CONTEXT_ALONE:
        return Rope(theta)
    if kind not in ("linear", "llama3"):
        raise refused(name, f"{short(kind)} is none of default, dynamic, linear, llama3", f.where)
    factor = r.real("factor", 1.0, 1e6)
    if kind == "linear":
        return Rope(theta, "linear", factor)
    low, high = (r.real(f"{which}_freq_factor", 1e-3, 1e6) for which in ("low", "high"))
    if low >= high:
        raise refused("low_freq_factor", f"{low} is not below high_freq_factor {high}", f.where)
    return Rope(
        theta, "llama3", factor, low, high, r.size(before, _HIGHEST["max_position_embeddings"])
    )
