"""`silva pretrain`: train a backbone from scratch and write it as a Hugging Face ViT directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from silva.data.nouns import ImageDataset
    from silva.pretraining.config import PretrainConfig
    from silva.pretraining.train import LabelledImages, Pretrained

HELD_OUT = 0.1
"""Share of the images that measure accuracy where the data set comes without a split."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("pretrain", help=_pretrain.__doc__)(_pretrain)


def _pretrain(
    config: Annotated[Path, typer.Option(help="Recipe, see recipes/pretrain/.")],
    data: Annotated[str, typer.Option(help="Images: file, folder or known name; or texts.")],
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    split: Annotated[str, typer.Option(help="Train/test column or share, of images.")] = "",
    labels: Annotated[str, typer.Option(help="Label column or folder levels, of images.")] = "",
    threads: Annotated[int, typer.Option(min=0, max=1024, help="Threads; 0: torch decides.")] = 0,
) -> None:
    """Train a backbone from scratch; the same command resumes an interrupted run.

    A recipe with kind = "language" makes a language model from a folder of .txt files. The
    unfinished run lies beside the model directory, in OUT.run.
    """
    import torch
    from rich.console import Console

    from silva.cli.pretrain_language import pretrain_language
    from silva.config import build, read_toml
    from silva.data.open import open_dataset
    from silva.pretraining.config import PretrainConfig

    _check_out(out)
    table = read_toml(config)
    if threads:
        torch.set_num_threads(threads)
    console = Console()
    if table.get("kind") == "language":
        pretrain_language(table, config, Path(data), out, console)
        return
    recipe = build(PretrainConfig, table, str(config))
    dataset = open_dataset(data, split=split, labels=labels)
    train, held_out = _tensors(dataset, recipe)
    state = out.with_name(out.name + ".run")
    try:
        result = _train(recipe, train, held_out, state, console)
    except KeyboardInterrupt:
        console.print(f"\nInterrupted. The same command goes on from {state}, epoch by epoch.")
        raise typer.Exit(130) from None
    accuracy = _write(result, dataset.class_names, held_out, out, recipe)
    for left in state.glob("checkpoint.*"):
        left.unlink()
    state.rmdir()
    console.print(f"{out}: held-out top-1 {accuracy:.1%} after {recipe.epochs} epochs")


def _check_out(out: Path) -> None:
    """RunError where something lies; a directory whose run is still there was being written."""
    from silva.errors import RunError
    from silva.pretraining.checkpoint import FILE

    if out.name in ("", ".."):
        raise RunError("is no place for a model", where=out, remedy="name a folder with --out")
    if (out.with_name(out.name + ".run") / FILE).is_file() and not out.is_file():
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError("is there already", where=out, remedy="choose another --out")


def _tensors(
    dataset: ImageDataset, recipe: PretrainConfig
) -> tuple[LabelledImages, LabelledImages]:
    """Training and held-out images at the recipe's size, in memory."""
    import numpy as np
    import torch

    from silva.data.nouns import TEST, TRAIN
    from silva.data.split import split_rows
    from silva.pretraining.train import LabelledImages

    if dataset.split is None:
        dataset = split_rows(dataset, HELD_OUT, recipe.seed)
    sides = []
    for side in (TRAIN, TEST):
        rows = np.flatnonzero(dataset.split == side)
        images = torch.from_numpy(dataset.source.load(rows, recipe.image_size))
        labels = torch.from_numpy(dataset.labels[rows])
        sides.append(LabelledImages(images.permute(0, 3, 1, 2).contiguous(), labels))
    return sides[0], sides[1]


def _train(
    recipe: PretrainConfig,
    train: LabelledImages,
    held_out: LabelledImages,
    state: Path,
    console: object,
) -> Pretrained:
    """`pretrain` behind a progress bar that starts where the checkpoint ends."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    from silva.pretraining.train import pretrain

    assert isinstance(console, Console)
    steps = len(train.labels) // recipe.batch_size
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%")]
    with Progress(*columns, TimeElapsedColumn(), Remaining(), console=console) as bar:
        task = bar.add_task("training", total=recipe.epochs * steps)

        def on_step(step: int, loss: float) -> None:
            epoch = (step - 1) // steps + 1
            text = f"epoch {epoch}/{recipe.epochs}  loss {loss:.3f}"
            bar.update(task, completed=step, description=text)

        return pretrain(recipe, train, held_out, state, on_step)


def _write(
    result: Pretrained,
    class_names: tuple[str, ...],
    held_out: LabelledImages,
    out: Path,
    recipe: PretrainConfig,
) -> float:
    """Model directory with the curve; the accuracy is that of the files as written."""
    import json
    from dataclasses import asdict

    import torch

    from silva.models.loader import load_vit, save_vit
    from silva.pretraining.curve import draw_curve
    from silva.pretraining.evaluate import top_1

    out.mkdir(parents=True, exist_ok=True)
    draw_curve(result.curve, out / "curve.png")
    classes = result.head.out_features
    save_vit(out, result.as_backbone(out.name, class_names[:classes]), torch.float16)
    accuracy = top_1(load_vit(out, out.name), held_out.images, held_out.labels)
    record = {"accuracy": accuracy, "config": asdict(recipe), "curve": result.curve}
    scratch = out / ".curve.json.tmp"
    scratch.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    scratch.replace(out / "curve.json")
    return accuracy
