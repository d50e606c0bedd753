"""`silva pretrain` with a recipe for a language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def pretrain_language(
    table: dict[str, Any], config: Path, texts: Path, out: Path, console: Console
) -> None:
    """Train by the recipe `table`, which was read from `config`, behind a progress bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    from silva.config import build
    from silva.errors import DataError
    from silva.pretraining.language.config import LanguageRecipe
    from silva.pretraining.language.run import make_language_model

    recipe = build(LanguageRecipe, table, str(config))
    if not texts.is_dir():
        raise DataError("is no folder", where=texts, remedy="give a folder of .txt files")
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%")]
    with Progress(*columns, TimeElapsedColumn(), Remaining(), console=console) as bar:
        task = bar.add_task("reading texts", total=recipe.steps)

        def on_step(step: int, loss: float) -> None:
            text = f"step {step}/{recipe.steps}  loss {loss:.3f}"
            bar.update(task, completed=step, description=text)

        try:
            measured = make_language_model(recipe, texts, out, on_step)
        except KeyboardInterrupt:
            console.print(f"\nInterrupted. The same command goes on from {out}.run.")
            raise typer.Exit(130) from None
    drafts = measured["drafts"]
    console.print(
        f"{out}: {measured['bits_per_byte']:.3f} bits per byte on held-out text, "
        f"drafts accepted {drafts['accepted']:.1%}, repeated {drafts['repeated']:.1%}",
        soft_wrap=True,
    )
