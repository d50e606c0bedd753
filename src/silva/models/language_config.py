"""The configuration of a language model of any family, from its directory; needs no torch."""

from __future__ import annotations

from pathlib import Path

from silva.errors import ModelError
from silva.models import deepseek_config, llama_config
from silva.models.config_fields import CONFIG, read_files
from silva.models.deepseek_config import DeepseekConfig
from silva.models.fields import short
from silva.models.llama_config import LlamaConfig

FAMILIES = (*llama_config.FAMILIES, *deepseek_config.FAMILIES)
"""Values of `model_type` that silva reads."""


def read_language_config(folder: Path) -> LlamaConfig | DeepseekConfig:
    """The configuration of a Hugging Face directory. Raises ModelError naming file and field."""
    raw, _ = read_files(folder)
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"model_type is {short(family)}",
            where=folder / CONFIG,
            remedy=f"silva reads language models of the types {', '.join(FAMILIES)}",
        )
    if family in deepseek_config.FAMILIES:
        return deepseek_config.read_config(folder)
    return llama_config.read_config(folder)
