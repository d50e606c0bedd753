"""Settings of the pre-training of a language model (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from silva.config import setting

BEGIN, END = "<|begin|>", "<|end|>"
"""The two special tokens: number 0 before every text, number 1 after it."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a DeepSeek-V3-shaped model with one module for the token after next."""

    vocab_size: int = setting(4096, low=258, high=1 << 20, help="entries of the tokenizer")
    hidden_size: int = setting(256, low=1, high=16_384, help="width of the tokens")
    layers: int = setting(6, low=1, high=512, help="layers")
    dense_layers: int = setting(1, low=0, high=512, help="first layers, without experts")
    intermediate_size: int = setting(512, low=1, high=131_072, help="width of a dense layer's MLP")
    experts: int = setting(16, low=2, high=4096, help="routed experts of a layer")
    experts_per_token: int = setting(4, low=1, high=4096, help="of these, for one token")
    expert_size: int = setting(112, low=1, high=131_072, help="inner width of an expert")
    shared_experts: int = setting(1, low=0, high=64, help="experts that every token goes to")
    heads: int = setting(8, low=1, high=512, help="attention heads")
    q_rank: int = setting(96, low=1, high=16_384, help="values of a query's latent")
    kv_rank: int = setting(64, low=1, high=16_384, help="values of the latent of keys and values")
    nope_size: int = setting(32, low=1, high=1024, help="values of a head without position")
    rope_size: int = setting(16, low=2, high=1024, help="values of a head with position")
    value_size: int = setting(32, low=1, high=1024, help="values of a head's output")
    context: int = setting(1024, low=8, high=1 << 24, help="positions")

    def as_config(self) -> dict[str, Any]:
        """The `config.json` of a Hugging Face directory of this shape."""
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "first_k_dense_replace": self.dense_layers,
            "intermediate_size": self.intermediate_size,
            "n_routed_experts": self.experts,
            "num_experts_per_tok": self.experts_per_token,
            "moe_intermediate_size": self.expert_size,
            "n_shared_experts": self.shared_experts,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "q_lora_rank": self.q_rank,
            "kv_lora_rank": self.kv_rank,
            "qk_nope_head_dim": self.nope_size,
            "qk_rope_head_dim": self.rope_size,
            "v_head_dim": self.value_size,
            "max_position_embeddings": self.context,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "attention_bias": False,
            "tie_word_embeddings": True,
            "num_nextn_predict_layers": 1,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }


@dataclass(frozen=True)
class LanguageRecipe:
    """Recipe of a run; its TOML says ``kind = "language"``."""

    kind: str = setting("language", choices=("language",), help="what is trained")
    model: ModelShape = ModelShape()
    steps: int = setting(2000, low=1, high=100_000_000, help="steps of training")
    sequences: int = setting(16, low=1, high=65_536, help="sequences of a step")
    length: int = setting(256, low=4, high=1 << 24, help="tokens of a sequence")
    held_out: float = setting(0.05, low=0.001, high=0.9, help="share of the sections kept apart")
    muon_lr: float = setting(4e-3, low=0.0, high=10.0, help="peak rate of the layers' matrices")
    adamw_lr: float = setting(3e-3, low=0.0, high=10.0, help="peak rate of everything else")
    weight_decay: float = setting(0.05, low=0.0, high=10.0, help="decoupled weight decay")
    warmup_steps: int = setting(50, low=1, high=1_000_000, help="steps of linear warm-up")
    decay: float = setting(0.5, low=0.0, high=1.0, help="last share of the steps: the rates fall")
    clip: float = setting(1.0, low=0.0, high=1e6, help="largest gradient norm; 0 for no clipping")
    draft_weight: float = setting(
        0.3, low=0.0, high=10.0, help="of the loss of the token after next"
    )
    balance: float = setting(
        0.002, low=0.0, high=1.0, help="a step's change of the gates' correction bias"
    )
    save_every: int = setting(200, low=1, high=1_000_000, help="steps between checkpoints")
    seed: int = setting(0, low=0, high=1_000_000_000, help="of weights and of the order of texts")

    def rate(self, step: int) -> float:
        """Share of the peak rates in step number `step` (from 0): up, level, then down to zero."""
        falling = max(1, round(self.decay * self.steps))
        up, down = (step + 1) / self.warmup_steps, (self.steps - step) / falling
        return min(up, 1.0, down)
