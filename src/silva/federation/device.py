"""Where the model computes: a torch device by name, tried before a run begins."""

from __future__ import annotations

import torch

from silva.errors import ConfigError


def usable_device(name: str) -> torch.device:
    """The device called `name`; ConfigError when this torch on this machine cannot compute there."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # torch raises all of these: unknown name, build without CUDA, no such card, meta tensors.
        known = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        raise ConfigError(
            f"torch cannot compute on {name[:40]!r}",
            where="device",
            remedy=f"usable here: {', '.join(known)}",
        ) from error
    return device
