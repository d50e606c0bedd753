from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import (
    VIT,
    backbone,
    dataset,
    make_run,
    partition,
    random_head,
    random_pairs,
    same_head,
    same_pairs,
    settings,
)

from silva.adapters.tiers import LoraPair
from silva.federation.cascade import grow
from silva.federation.classification import Classification
from silva.federation.client import Work
from silva.federation.run import Progress
from silva.federation.runtime.local import ClientImages, LocalRuntime
from silva.models.vit import ViT

BASE = backbone()
TASK = Classification(BASE.model, 4)
WEIGHTS = {n: BASE.model.get_submodule(n).weight for n in BASE.model.module_names()}


class Counting:
    """A source of images that writes down what is decoded."""

    def __init__(self, inner) -> None:
        self.inner, self.loads = inner, []

    def __len__(self) -> int:
        return len(self.inner)

    def load(self, rows: np.ndarray, side: int) -> np.ndarray:
        self.loads.append(rows.tolist())
        return self.inner.load(rows, side)


def counted(cache_bytes: int) -> tuple[ClientImages, Counting]:
    source = Counting(dataset().source)
    data = replace(dataset(), source=source)
    return ClientImages(data, partition(), BASE, cache_bytes), source


def work(client: str, seed: int = 1) -> Work:
    return Work(client, WEIGHTS, random_pairs(seed), random_head(seed), 2.0, 1, seed)


def test_a_client_gets_its_own_images_and_no_others() -> None:
    clients, _ = counted(1 << 20)
    rows = partition().clients[3]
    data = clients.train("c-3")
    assert data.labels.tolist() == dataset().labels[rows.train].tolist()
    wanted = BASE.pixels(dataset().source.load(rows.train, VIT.image_size))
    assert torch.equal(data.pixels, wanted)
    assert len(clients.test("c-3").labels) == 6


def test_images_are_decoded_once_while_there_is_room() -> None:
    clients, source = counted(1 << 20)
    first = clients.train("c-0").pixels
    assert source.loads == [partition().clients[0].train.tolist()]
    assert torch.equal(clients.train("c-0").pixels, first) and len(source.loads) == 1


def test_the_least_recently_used_images_go_first() -> None:
    one = 12 * 8 * 8 * 3
    clients, source = counted(2 * one)
    for name in ("c-0", "c-1", "c-0", "c-2", "c-0", "c-1"):
        clients.train(name)
    order = [partition().clients[n].train.tolist() for n in (0, 1, 2, 1)]
    assert source.loads == order


def test_a_client_larger_than_the_budget_is_served_all_the_same() -> None:
    clients, source = counted(1)
    assert len(clients.train("c-0").labels) == len(clients.train("c-1").labels) == 12
    clients.train("c-0")
    assert len(source.loads) == 3


def test_a_style_is_applied_before_the_pixels_are_normalised() -> None:
    plain = partition()
    styled = replace(plain.clients[0], style="inverted")
    parts = replace(plain, clients=(styled, *plain.clients[1:]))
    clients = ClientImages(dataset(), parts, BASE)
    raw = dataset().source.load(styled.train, VIT.image_size)
    torch.testing.assert_close(clients.train("c-0").pixels, BASE.pixels(255 - raw))


def test_threads_may_ask_for_images_at_once() -> None:
    clients, source = counted(1 << 20)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(clients.train, ["c-0", "c-1"] * 8))
    assert len(source.loads) == 2
    assert all(torch.equal(d.pixels, found[n % 2].pixels) for n, d in enumerate(found))


@pytest.mark.parametrize("workers", [0, 3])
def test_updates_come_in_the_order_of_the_work_whatever_runs_side_by_side(workers: int) -> None:
    clients, _ = counted(1 << 20)
    works = [work(f"c-{n}", seed=n) for n in (4, 0, 2, 1)]
    alone = list(LocalRuntime(TASK, clients, settings().local).train(works))
    assert [u.client for u in alone] == ["c-4", "c-0", "c-2", "c-1"]
    if workers:
        with ThreadPoolExecutor(workers) as pool:
            together = list(LocalRuntime(TASK, clients, settings().local, pool).train(works))
        assert all(same_pairs(u.pairs, v.pairs) for u, v in zip(alone, together, strict=True))
        assert all(same_head(u.head, v.head) for u, v in zip(alone, together, strict=True))


def test_nothing_is_left_behind_that_changes_the_next_piece_of_work() -> None:
    clients, _ = counted(1 << 20)
    runtime = LocalRuntime(TASK, clients, settings().local)
    before = {n: t.clone() for n, t in BASE.model.state_dict().items()}
    first = next(iter(runtime.train([work("c-0")])))
    list(runtime.train([work("c-1"), work("c-2")]))
    again = next(iter(runtime.train(iter([work("c-0")]))))
    assert same_pairs(first.pairs, again.pairs) and first.loss == again.loss
    assert all(torch.equal(before[n], t) for n, t in BASE.model.state_dict().items())
    assert list(runtime.train([])) == []


def alive(kind: type) -> int:
    gc.collect()
    return sum(type(thing) is kind for thing in gc.get_objects())


def most_alive(folder: Path, clients: int) -> Iterator[int]:
    """Objects of ViT and of LoraPair that live while the last clients grow their leaves."""
    counts: list[tuple[int, int]] = []

    def watch(progress: Progress) -> None:
        if progress.stage == "leaf" and progress.done == progress.total:
            counts.append((alive(ViT), alive(LoraPair)))

    run = make_run(
        folder / f"{clients}",
        settings(leaf__rounds=1, unseen_epochs=1),
        parts=partition(clients, train=4, test=2),
        on_progress=watch,
    )
    grow(run)
    yield from counts[0]


def test_one_backbone_and_no_clients_state_in_memory_whatever_the_number_of_clients(
    tmp_path: Path,
) -> None:
    before = alive(ViT)
    few, many = (tuple(most_alive(tmp_path, clients)) for clients in (6, 18))
    assert few[0] == many[0] == before + 1
    assert few[1] == many[1]
