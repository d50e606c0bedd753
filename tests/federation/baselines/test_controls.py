from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from tiny import make_run, same_head, same_pairs, settings

from silva.federation.baselines import local_work, measure_controls
from silva.federation.cascade import grow_clusters, grow_leaves, grow_root, make_clusters
from silva.federation.client import Update, Work
from silva.federation.heads import lone_first_head
from silva.federation.prior_heads import lone_head
from silva.federation.run import Run

EVERY = ("head_only", "local_pair", "local_lora")


def ready(folder: Path, **flags: object) -> tuple[Run, list[Work]]:
    """A run whose leaves are grown, and the list of what clients will be asked to do next."""
    works: list[Work] = []
    config = settings(controls=EVERY, root__rounds=3, **flags)
    run = make_run(folder / "run", config)
    for stage in (grow_root, make_clusters, grow_clusters, grow_leaves):
        stage(run)
    real = run.runtime.train
    run.runtime.train = lambda given: (works.append(w) or u for w in given for u in real([w]))
    return run, works


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory):
    run, works = ready(tmp_path_factory.mktemp("controls"))
    before = repr(run.state.record)
    rows = measure_controls(run, "c-1", local_work(run))
    assert repr(run.state.record) == before
    return run, works, rows


def test_every_control_is_measured_on_the_same_test_images(measured) -> None:
    _, _, rows = measured
    assert [r.tier for r in rows] == list(EVERY)
    assert all(r.client == "c-1" and r.seen and r.total == 6 for r in rows)


def test_local_work_is_that_of_the_cascade(measured) -> None:
    """Three root rounds, two of the cluster and two of the leaf."""
    run, works, _ = measured
    assert run.state.total_rounds == 7
    assert len(works) == (7 - 3) + (7 - 3) + 7
    assert all(w.client == "c-1" and w.epochs == 1 and not w.frozen for w in works)


def test_what_each_control_trains_and_starts_from(measured) -> None:
    run, works, _ = measured
    assert run.state.root is not None
    rooted = run.merge(run.base, run.state.root.pairs)
    head_only, local_pair, local_lora = works[:4], works[4:8], works[8:]
    for w in head_only + local_pair:
        assert all(torch.equal(w.merged[n], rooted[n]) for n in rooted)
    assert all(w.merged is run.base for w in local_lora)
    assert [w.train_pairs for w in (*head_only, *local_pair)] == [False] * 4 + [True] * 4
    given = (run.state.record.labels, run.task.reads, run.clients.train("c-1"))
    start = lone_head(*given, run.state.root.head)
    assert same_head(head_only[0].head, start) and same_head(local_pair[0].head, start)
    alone = lone_head(*given, lone_first_head(run, "c-1"))
    assert same_head(local_lora[0].head, alone) and not same_head(alone, start)
    assert all(not p.B.any() for w in head_only for p in w.pairs.values())
    assert not same_pairs(local_pair[-1].pairs, local_pair[0].pairs)


def test_no_controls_cost_nothing(tmp_path: Path) -> None:
    run, works = ready(tmp_path)
    quiet = make_run(tmp_path / "quiet", settings())
    quiet.state, quiet.folder = run.state, run.folder
    assert measure_controls(quiet, "c-0", local_work(run)) == [] and works == []


def test_with_one_cluster_the_work_is_the_same(tmp_path: Path) -> None:
    run, works = ready(tmp_path, clustering__k=1)
    measure_controls(run, "c-0", local_work(run))
    assert run.state.total_rounds == 7 and len(works) == 4 + 4 + 7


def asked(folder: Path, **flags: object) -> tuple[Run, Counter[tuple[str, str]]]:
    """A run whose leaves are grown, and how often each client trained, by stage and name."""
    count: Counter[tuple[str, str]] = Counter()
    run = make_run(folder / "run", settings(controls=EVERY, root__rounds=5, **flags))
    real = run.runtime.train

    def counted(given: Iterable[Work]) -> Iterator[Update]:
        given = list(given)
        count.update((run.state.stage, w.client) for w in given)
        return real(given)

    run.runtime.train = counted
    for stage in (grow_root, make_clusters, grow_clusters, grow_leaves):
        stage(run)
    return run, count


FLAGS = [
    {},
    {"participation": 0.4, "dropout": 0.3},
    {"participation": 0.4, "late": 0.4, "clustering__k": 1},
    {"cluster__rounds": 5, "cluster__tau": 0.2, "cluster__patience": 1, "cluster__min_rounds": 1},
]


@pytest.mark.parametrize("flags", FLAGS, ids=["all", "sampled", "late", "stopped"])
def test_work_is_what_each_client_really_did(tmp_path: Path, flags: dict[str, object]) -> None:
    run, count = asked(tmp_path, **flags)
    found = local_work(run)
    assert list(found) == [c.name for c in run.partition.seen]
    for name, work in found.items():
        below = count["cluster", name] + count["leaf", name]
        assert (work.root, work.below) == (count["root", name], below)
    totals = {w.root + w.below for w in found.values()}
    assert (totals == {run.state.total_rounds}) == (not flags)


def test_a_control_works_as_often_as_its_client_did(tmp_path: Path) -> None:
    run, count = asked(tmp_path, participation=0.4)
    work = local_work(run)
    name = min(work, key=lambda n: work[n].root)
    count.clear()
    measure_controls(run, name, work)
    assert work[name].root < 5
    mine = work[name]
    assert sum(count.values()) == 3 * mine.below + mine.root
