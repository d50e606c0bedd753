"""A word of warning before work in a number type that this processor has to emulate."""

from __future__ import annotations


def warn_of_bfloat16(setting: str, device: str) -> None:
    """One line on stderr if bfloat16 would be slow here; `setting` is what asked for it."""
    from rich.console import Console

    from silva.models.arithmetic import emulates_bfloat16

    if device.partition(":")[0] == "cpu" and emulates_bfloat16():
        line = f"slow: this processor has no bfloat16 arithmetic; {setting} = float32 is far faster"
        Console(stderr=True).print(line, style="yellow", highlight=False, soft_wrap=True)
