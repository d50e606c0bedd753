"""The first head: linear discriminants from statistics that clients send once, cooled to be believed.

Fine-tuning few rounds from a zero head spends them on finding the classes; class sums of the bare
model's features give them at once (`discriminants.py`). How sure such a head may be, clients
say that it has not seen (`calibration.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from silva.adapters.label_priors import even
from silva.adapters.tiers import NO_HEAD, Head
from silva.federation.calibration import (
    TEMPERATURES,
    cooled,
    dealt,
    possible_surprise,
    surprise,
    temperature,
)
from silva.federation.client import payload_bytes
from silva.federation.discriminants import (
    ClassStatistics,
    discriminant_head,
    possible,
    statistics_bytes,
    statistics_of,
)
from silva.federation.labels import NUMBER_BYTES, class_counts, estimate, has_priors
from silva.federation.record import Round
from silva.federation.run import Progress, Run
from silva.federation.seeds import generator
from silva.federation.task import Data_contra, Reads


def class_statistics(reads: Reads[Data_contra], data: Data_contra) -> ClassStatistics:
    """Statistics of the bare base model's features on one client's images."""
    return statistics_of(reads.features(data), reads.labels(data), reads.classes)


def zero_head(classes: int, hidden: int) -> Head:
    """The head that prefers no class."""
    return Head(weight=torch.zeros(classes, hidden), bias=torch.zeros(classes))


def agree_on_head(run: Run, names: Sequence[str]) -> Head:
    """The head that the root starts from; what clients send for it is a round of its own on record."""
    started, reads = time.perf_counter(), run.task.reads
    if reads is None:
        return NO_HEAD
    asked = list(names) if run.config.head_init == "discriminant" else []
    heard = believed_statistics(
        run, reads, asked, lambda n: run.on_progress(Progress("head", n, len(asked), asked[n - 1]))
    )
    head, rejected = zero_head(reads.classes, reads.hidden), len(asked) - len(heard)
    if heard:
        head, unbelieved = _shared_head(run, reads, heard)
        rejected += unbelieved
    down = payload_bytes({}, head)
    told = NUMBER_BYTES * len(TEMPERATURES)
    run.state.record.rounds.append(
        Round(
            stage="head",
            cluster=-1,
            round=0,
            participants=len(names) - rejected,
            rejected=rejected,
            dropped=0,
            loss=0.0,
            rho=0.0,
            trunc_energy=0.0,
            bytes_up=statistics_bytes(*head.weight.shape) * len(asked) + told * len(heard),
            bytes_down=down * len(names) + down * len(heard),
            seconds=time.perf_counter() - started,
            seconds_compute=0.0,
        )
    )
    return head


def lone_first_head(run: Run, name: str) -> Head:
    """The starting head of a client that shares nothing, calibrated by folds of its own images."""
    reads = run.task.reads
    if reads is None:
        return NO_HEAD
    if run.config.head_init != "discriminant":
        return zero_head(reads.classes, reads.hidden)
    data, priors = run.clients.train(name), run.state.record.labels
    features, labels = reads.features(data), reads.labels(data)
    prior = priors.alone(class_counts(reads, data)) if priors else even(reads.classes)
    order = generator(run.seed, "calibration", name).permutation(len(labels)).tolist()
    folds = dealt(order)
    statistics = [[statistics_of(features[f], labels[f], reads.classes)] for f in folds]

    def ask(fold: int, head: Head, known: Tensor) -> Tensor:
        return surprise(head, features[folds[fold]], labels[folds[fold]], prior, known)

    head = discriminant_head([statistics_of(features, labels, reads.classes)])
    return cooled(head, temperature(statistics, ask))


def _shared_head(
    run: Run, reads: Reads[Any], heard: Mapping[str, ClassStatistics]
) -> tuple[Head, int]:
    """The head of all statistics, calibrated, and how many clients' answers for that were no answers.

    Clients judge a head of the others' statistics, under the priors of their own labels.
    """
    counts = {name: s.counts.double().numpy() for name, s in heard.items()}
    priors = (
        estimate(np.array(list(counts.values())), []) if has_priors(run.config, reads) else None
    )
    names = list(heard)
    order = generator(run.seed, "calibration").permutation(len(names)).tolist()
    folds = [[names[n] for n in fold] for fold in dealt(order)]
    done, unbelieved, longest = 0, 0, reads.longest

    def ask(fold: int, head: Head, known: Tensor) -> Tensor:
        nonlocal done, unbelieved
        total = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
        for name in folds[fold]:
            data = run.clients.train(name)
            prior = priors.alone(counts[name]) if priors else even(reads.classes)
            said = surprise(head, reads.features(data), reads.labels(data), prior, known)
            if possible_surprise(said, head, longest, run.images[name], prior):
                total += said
            else:
                unbelieved += 1
            done += 1
            run.on_progress(Progress("calibration", done, len(names), name))
        return total

    found = temperature([[heard[name] for name in fold] for fold in folds], ask)
    return cooled(discriminant_head(list(heard.values())), found), unbelieved


def believed_statistics(
    run: Run,
    reads: Reads[Any],
    names: Sequence[str],
    after: Callable[[int], None] = lambda asked: None,
) -> dict[str, ClassStatistics]:
    """What clients send for the first head, without what their images cannot add up to.

    `after` hears how many clients have been asked.
    """
    longest, believed = reads.longest, {}
    for number, name in enumerate(names, start=1):
        statistics = class_statistics(reads, run.clients.train(name))
        if possible(statistics, run.images[name], longest):
            believed[name] = statistics
        after(number)
    return believed
