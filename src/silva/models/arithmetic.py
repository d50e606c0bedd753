"""Which number types the processor itself calculates with."""

from __future__ import annotations

from collections.abc import Mapping

import torch

BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx10_1", "avx10_2")
"""Any of these instruction sets of x86 multiplies bfloat16."""


def emulates_bfloat16() -> bool:
    """Whether bfloat16 is made of float32 on this processor: tens of times slower than float32.

    Processors other than x86 are taken at their word.
    """
    able: Mapping[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # torch 2.9 does not tell
    return able.get("architecture") == "x86_64" and not any(able.get(name) for name in BFLOAT16)
