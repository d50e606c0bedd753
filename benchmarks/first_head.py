"""What the first head, its temperature and label priors are worth, without any training.

    python benchmarks/first_head.py --recipe tin32-sc-dir-50 --samples 10 50 250 --seeds 0 1 2

Features of the bare backbone are taken once. One head is made of all training clients' class sums, with
its logits as they are and divided by the temperature that clients choose, and every client answers with
it under four notions of how frequent classes are: all alike; as in its true group; as its own training
images say; as group and own images say together. Accuracies are of test images, means over clients;
`unseen` are those that took no part in the head.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import common
import numpy as np
from tuning import Numbers

if TYPE_CHECKING:
    from torch import Tensor

    from silva.adapters.label_priors import Floats, LabelPriors
    from silva.adapters.tiers import Head
    from silva.federation.run import Run

KNOWN = ("nothing", "group", "own", "group and own")
"""What of a client's labels is known."""


@dataclass(frozen=True)
class Pictures:
    """One client's test images as the bare backbone sees them, and its training images' counts."""

    features: Tensor
    labels: Tensor
    counts: Floats
    group: str
    seen: bool


def open_run(recipe: str, seed: int, samples: int, data: Path, folder: Path) -> Run:
    """A run of a recipe that has not begun, with so many training images a client."""
    from silva.config import build, overlay, read_toml
    from silva.data.open import open_dataset
    from silva.federation.assembly import deal, make_run
    from silva.federation.material import image_material
    from silva.federation.state import RunFolder, RunState
    from silva.federation.tune import TuneConfig, with_rounds
    from silva.models.registry import load_backbone

    flags = {"seed": seed, "data.path": str(data), "data.samples_per_client": samples}
    config = build(TuneConfig, overlay(read_toml(common.RECIPES / f"{recipe}.toml"), flags), recipe)
    material = image_material(load_backbone(config.backbone), open_dataset(str(data)))
    partition = deal(config.data, seed, material.dataset)
    clients = RunFolder(folder, [c.name for c in partition.clients])
    federation = with_rounds(replace(config.federation, late=0.0))
    return make_run(federation, seed, material, partition, clients, RunState())


def pictures(run: Run) -> dict[str, Pictures]:
    """What is measured of every client; each image goes through the backbone once."""
    from silva.federation.labels import class_counts

    reads, found = run.task.reads, {}
    assert reads is not None
    for rows in run.partition.clients:
        test = run.clients.test(rows.name)
        found[rows.name] = Pictures(
            features=reads.features(test),
            labels=reads.labels(test),
            counts=class_counts(reads, run.clients.train(rows.name)),
            group=f"cluster-{rows.group}",
            seen=rows.name not in run.partition.unseen,
        )
    return found


def accuracies(
    clients: Sequence[Pictures], head: Head, frequencies: Callable[[Pictures], Floats]
) -> Numbers:
    """Mean accuracy of seen and of unseen clients."""
    from silva.adapters.label_priors import even
    from silva.federation.prior_heads import under_prior

    values: dict[bool, list[float]] = {True: [], False: []}
    for client in clients:
        own = under_prior(head, even(head.classes), frequencies(client))
        right = (client.features @ own.weight.T + own.bias).argmax(dim=1) == client.labels
        values[client.seen].append(float(right.float().mean()))
    return {"seen": float(np.mean(values[True])), "unseen": float(np.mean(values[False]))}


def measure(recipe: str, seed: int, samples: int, data: Path) -> Numbers:
    """All accuracies of one federation, by temperature and by what is known of labels."""
    from silva.adapters.label_priors import even
    from silva.federation.calibration import cooled
    from silva.federation.discriminants import discriminant_head
    from silva.federation.heads import agree_on_head, believed_statistics
    from silva.federation.labels import estimate

    with tempfile.TemporaryDirectory() as folder:
        run = open_run(recipe, seed, samples, data, Path(folder))
        reads, names = run.task.reads, run.founders()
        assert reads is not None
        raw = discriminant_head(list(believed_statistics(run, reads, names).values()))
        chosen = float(raw.weight.norm() / agree_on_head(run, names).weight.norm())
        known = pictures(run)
    seen = [known[name] for name in names]
    priors: LabelPriors = estimate(np.array([c.counts for c in seen]), [c.group for c in seen])
    notions: dict[str, Callable[[Pictures], Floats]] = {
        "nothing": lambda c: even(len(c.counts)),
        "group": lambda c: priors.group(c.group, len(c.counts)),
        "own": lambda c: priors.alone(c.counts),
        "group and own": lambda c: priors.member(c.group, c.counts),
    }
    found = {
        name: {
            what: accuracies(list(known.values()), cooled(raw, t), notions[what]) for what in KNOWN
        }
        for name, t in (("as it is", 1.0), ("calibrated", chosen))
    }
    return {"temperature": chosen, "concentration": priors.of_clients, "accuracy": found}


def main() -> int:
    parser = common.make_parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--recipe", required=True, help="a name in recipes/, without .toml")
    parser.add_argument("--samples", type=int, nargs="+", required=True, metavar="N")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments: argparse.Namespace = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    data = common.data_file(arguments.data_dir, arguments.recipe)
    points: Numbers = {}
    for samples in arguments.samples:
        runs = {
            str(seed): measure(arguments.recipe, seed, samples, data) for seed in arguments.seeds
        }
        points[str(samples)] = runs
        for seed, run in runs.items():
            print(f"{samples} images, seed {seed}: temperature {run['temperature']:.2f}")
            for name, row in run["accuracy"].items():
                cells = (f"{what} {100 * row[what]['seen']:.1f}" for what in KNOWN)
                print(f"  {name:12s}", "  ".join(cells))
    numbers = [str(n) for n in (*arguments.samples, "--seeds", *arguments.seeds)]
    words = ["python benchmarks/first_head.py --recipe", arguments.recipe, "--samples", *numbers]
    path = arguments.results / f"first-head-{arguments.recipe}.json"
    content = {"benchmark": "first_head", **common.facts(), "command": " ".join(words)}
    units = {"accuracy": "fraction"}
    common.write_json(
        path, {**content, "recipe": arguments.recipe, "units": units, "points": points}
    )
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
