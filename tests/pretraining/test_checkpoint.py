from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from silva.errors import RunError
from silva.pretraining.checkpoint import FILE, make_folder, read_checkpoint, write_checkpoint


@dataclass(frozen=True)
class Recipe:
    rate: float = 0.1
    sides: tuple[int, ...] = (4, 8)


Model = dict[str, torch.Tensor]


def model(steps: int) -> tuple[Model, dict[str, torch.optim.Optimizer]]:
    """A weight and a bias, trained for some steps by an optimiser each."""
    held = {"weight": torch.ones(3, 2, requires_grad=True), "optimiser.bias": torch.ones(3)}
    held["optimiser.bias"].requires_grad_(True)
    optimisers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW([held["weight"]], lr=0.1),
        "sgd": torch.optim.SGD([held["optimiser.bias"]], lr=0.1, momentum=0.9),
    }
    for n in range(steps):
        step(held, optimisers, n)
    return held, optimisers


def step(held: Model, optimisers: dict[str, torch.optim.Optimizer], n: int) -> None:
    for tensor in held.values():
        tensor.grad = torch.full_like(tensor, 1.0 + n)
    for optimiser in optimisers.values():
        optimiser.step()


def test_what_is_read_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    held, optimisers = model(2)
    make_folder(tmp_path / "run")
    write_checkpoint(tmp_path / "run", held, optimisers, Recipe(), {"done": "2"})
    again, restored = model(0)
    with read_checkpoint(tmp_path / "run", restored, Recipe()) as (tensors, about):
        assert about["done"] == "2" and set(tensors) == set(held)
        with torch.no_grad():
            for name, tensor in again.items():
                tensor.copy_(tensors[name])
    step(held, optimisers, 2)
    step(again, restored, 2)
    assert all(torch.equal(tensor, again[name]) for name, tensor in held.items())
    assert [p.name for p in (tmp_path / "run").iterdir()] == [FILE]


def test_another_recipe_is_named_by_what_differs(tmp_path: Path) -> None:
    held, optimisers = model(1)
    write_checkpoint(tmp_path, held, optimisers, Recipe(), {})
    with (
        pytest.raises(RunError, match=r"other settings \(rate\)"),
        read_checkpoint(tmp_path, optimisers, Recipe(rate=0.2)),
    ):
        pytest.fail("nothing is read of it")


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError("x"), TypeError("x"), RuntimeError("x")]
)
def test_what_cannot_be_used_is_damage(tmp_path: Path, error: Exception) -> None:
    held, optimisers = model(1)
    write_checkpoint(tmp_path, held, optimisers, Recipe(), {})
    with (
        pytest.raises(RunError, match=r"damaged.*remove it to start"),
        read_checkpoint(tmp_path, optimisers, Recipe()),
    ):
        raise error


def test_an_error_with_words_of_its_own_keeps_them(tmp_path: Path) -> None:
    held, optimisers = model(1)
    write_checkpoint(tmp_path, held, optimisers, Recipe(), {})
    with (
        pytest.raises(RunError, match="of other texts"),
        read_checkpoint(tmp_path, optimisers, Recipe()),
    ):
        raise RunError("of other texts")


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_a_file_that_is_none_is_damage(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(RunError, match="damaged"), read_checkpoint(tmp_path, {}, Recipe()):
        pytest.fail("there is nothing to read")
