from __future__ import annotations

import pytest
import torch

from silva.models.arithmetic import emulates_bfloat16


@pytest.mark.parametrize(
    ("able", "emulates"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True}, False),
        ({"architecture": "x86_64", "amx_bf16": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_what_the_processor_can_do(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, object], emulates: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert emulates_bfloat16() is emulates
