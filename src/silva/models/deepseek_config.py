"""Shape of a DeepSeek-shaped model: from the `config.json` of V3, R1, V2, V2-Lite, Moonlight."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from silva.errors import ModelError
from silva.models.config_fields import CONFIG, Fields, read_files, shape_digest
from silva.models.deepseek_rules import GateRule, YarnRope
from silva.models.fields import refused, short
from silva.models.kept import Latent

FAMILIES = ("deepseek_v3", "deepseek_v2")
"""Values of `model_type`. Moonlight and R1 say deepseek_v3, V2-Lite says deepseek_v2."""

_MOST_POSITIONS = 1 << 24
_LARGEST_REAL = 1e12
_MOST_EXPERTS = 1 << 17
"""Of all layers together, since each one's tensors are named before a file is compared with them;
DeepSeek-V3 has 14,848."""


@dataclass(frozen=True)
class DeepseekConfig:
    """Shape of the model, and the tokens that end an answer."""

    vocab_size: int
    hidden_size: int
    layers: int
    dense_layers: int
    """The first layers, which have no experts."""
    intermediate_size: int
    """Of the dense layers' SwiGLU."""
    expert_size: int
    """Inner size of one expert."""
    experts: int
    """Routed experts of each layer; 0: a model without."""
    shared_experts: int
    gate: GateRule
    heads: int
    q_rank: int | None
    """Values of a query's latent; None: queries are made from the hidden state."""
    kv_rank: int
    nope_size: int
    rope_size: int
    value_size: int
    context: int
    """Positions in tokens."""
    norm_eps: float = 1e-6
    rope: YarnRope = field(default_factory=YarnRope)
    interleaved: bool = True
    """Whether position turns pairs (2i, 2i + 1) of a head, not (i, i + rope_size / 2)."""
    bias: bool = False
    """Of the down projections and the output projection."""
    tied: bool = False
    """Whether the head is the embedding."""
    drafts: int = 0
    """Modules for multi-token prediction that the weights may bring."""
    block: tuple[int, int] | None = None
    """Rows and columns of the blocks that FP8 weights have one scale for; None: no FP8."""
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None

    @property
    def kept(self) -> Latent:
        """One latent for all heads, position included: 512 + 64 values in DeepSeek-V3."""
        return Latent(self.kv_rank + self.rope_size)

    @property
    def softmax_scale(self) -> float:
        """Of a query's product with a key."""
        return (self.nope_size + self.rope_size) ** -0.5 * self.rope.softmax_factor

    def has_experts(self, layer: int) -> bool:
        """Whether a layer has routed experts; the layers of draft modules follow the model's."""
        return self.experts > 0 and layer >= self.dense_layers

    def digest(self) -> str:
        """SHA-256 of what turns the same weights into another function; end tokens do not."""
        return shape_digest(asdict(self))


def read_config(folder: Path) -> DeepseekConfig:
    """The configuration of a Hugging Face directory. Raises ModelError naming file and field.

    Where there is a `generation_config.json`, its end tokens count.
    """
    raw, generation = read_files(folder)
    config = deepseek_config(raw, folder / CONFIG)
    if "eos_token_id" not in generation:
        return config
    return replace(config, eos_ids=generation.tokens("eos_token_id", config.vocab_size))


def deepseek_config(raw: dict[str, Any], where: object) -> DeepseekConfig:
    """The shape that `config.json` describes. Raises ModelError naming the field."""
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"model_type is {short(family)}",
            where=where,
            remedy=f"silva reads models with experts of the types {', '.join(FAMILIES)}",
        )
    f = Fields(raw, where)
    f.choice("hidden_act", ["silu"], "silu")
    layers = f.size("num_hidden_layers", 1024)
    vocab_size = f.size("vocab_size", 1 << 22)
    rope_size = f.size("qk_rope_head_dim", 1024)
    if rope_size % 2:
        raise refused("qk_rope_head_dim", f"{rope_size} is odd, and positions turn pairs", where)
    heads = f.size("num_attention_heads", 1024)
    if f.size("num_key_value_heads", 1024, default=heads) != heads:
        raise refused("num_key_value_heads", "latent attention has as many as heads", where)
    if f.flag("mlp_bias", False):
        raise refused("mlp_bias", "silva reads models without", where)
    if f.size("moe_layer_freq", 1 << 20, default=1) != 1:
        raise refused("moe_layer_freq", "silva reads models with experts in every layer", where)
    experts = f.size("n_routed_experts", 1 << 16, default=0, lowest=0)
    if layers * experts > _MOST_EXPERTS:
        what = f"{experts} in each of {layers} layers are more than {_MOST_EXPERTS} in all"
        raise refused("n_routed_experts", what, where)
    context = f.size("max_position_embeddings", _MOST_POSITIONS)
    return DeepseekConfig(
        vocab_size=vocab_size,
        hidden_size=f.size("hidden_size", 1 << 16),
        layers=layers,
        dense_layers=f.size("first_k_dense_replace", layers, default=0, lowest=0),
        intermediate_size=f.size("intermediate_size", 1 << 19),
        expert_size=f.size("moe_intermediate_size", 1 << 19) if experts else 0,
        experts=experts,
        shared_experts=f.size("n_shared_experts", 64, default=0, lowest=0) if experts else 0,
        gate=_gate(f, family, experts),
        heads=heads,
        q_rank=f.size("q_lora_rank", 1 << 16) if "q_lora_rank" in f else None,
        kv_rank=f.size("kv_lora_rank", 1 << 16),
        nope_size=f.size("qk_nope_head_dim", 1024),
        rope_size=rope_size,
        value_size=f.size("v_head_dim", 1024),
        context=context,
        norm_eps=f.real("rms_norm_eps", 0.0, 1.0, default=1e-6),
        rope=_rope(f, context),
        interleaved=family == "deepseek_v2" or f.flag("rope_interleave", True),
        bias=f.flag("attention_bias", False),
        tied=f.flag("tie_word_embeddings", False),
        drafts=f.size("num_nextn_predict_layers", 1, default=0, lowest=0),
        block=_block(f),
        eos_ids=f.tokens("eos_token_id", vocab_size),
        bos_id=f.token("bos_token_id", vocab_size),
    )


def _gate(f: Fields, family: str, experts: int) -> GateRule:
    """The gate's rule, the fields that it consists of compared with each other."""
    if not experts:
        return GateRule("sigmoid", top_k=0)
    sigmoid = family == "deepseek_v3"
    scoring = "sigmoid" if sigmoid else "softmax"
    f.choice("scoring_func", [scoring], scoring)
    methods = ["noaux_tc"] if sigmoid else ["greedy", "group_limited_greedy"]
    method = f.choice("topk_method", methods, methods[0])
    top_k = f.size("num_experts_per_tok", experts)
    normalised = f.flag("norm_topk_prob", sigmoid)
    if normalised and not sigmoid:
        # Libraries differ in whether the scale counts then; no published model asks for it.
        raise refused("norm_topk_prob", "true with softmax is not read", f.where)
    groups, top_groups = 1, 1
    if method != "greedy":
        groups = f.size("n_group", experts)
        top_groups = f.size("topk_group", groups)
    if experts % groups:
        what = f"{experts} experts do not divide among {groups} groups"
        raise refused("n_routed_experts", what, f.where)
    of_group = experts // groups
    if sigmoid and groups > top_groups and of_group < 2:
        raise refused("n_group", "a group is judged by its two best experts, but has one", f.where)
    if top_k > top_groups * of_group:
        what = f"{top_k} experts a token, but its {top_groups} groups have {top_groups * of_group}"
        raise refused("num_experts_per_tok", what, f.where)
    scaling = f.real("routed_scaling_factor", 0.0, 1e6, default=2.5 if sigmoid else 1.0)
    return GateRule(
        "sigmoid" if sigmoid else "softmax", top_k, groups, top_groups, normalised, scaling
    )


def _rope(f: Fields, context: int) -> YarnRope:
    """From transformers 5's `rope_parameters`, or 4's `rope_theta` and `rope_scaling`."""
    name = "rope_parameters" if "rope_parameters" in f else "rope_scaling"
    r = f.table(name)
    theta = (r if "rope_theta" in r else f).real("rope_theta", 1.01, _LARGEST_REAL, default=1e4)
    kind = r.choice("rope_type" if "rope_type" in r else "type", ["default", "yarn"], "default")
    if kind == "default":
        return YarnRope(theta)
    before = r.size("original_max_position_embeddings", _MOST_POSITIONS)
    factor = r.real("factor", 1.0, 1e6, default=max(context / before, 1.0))
    given = "attention_factor" in r
    return YarnRope(
        theta,
        "yarn",
        factor,
        before,
        r.real("beta_fast", 1e-3, 1e6, default=32.0),
        r.real("beta_slow", 1e-3, 1e6, default=1.0),
        r.real("mscale", 0.0, 1e3, default=0.0),
        r.real("mscale_all_dim", 0.0, 1e3, default=0.0),
        r.real("attention_factor", 1e-3, 1e3) if given else None,
        r.flag("truncate", True),
    )


def _block(f: Fields) -> tuple[int, int] | None:
    """Rows and columns of the blocks of FP8 weights; None for a model that is not quantised."""
    if "quantization_config" not in f:
        return None
    q = f.table("quantization_config")
    q.choice("quant_method", ["fp8"], "")
    q.choice("fmt", ["e4m3"], "e4m3")
    raw = q.sizes("weight_block_size", 2, 1 << 16)
    return raw[0], raw[1]
