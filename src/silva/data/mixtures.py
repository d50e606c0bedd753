"""Synthetic partitions: how much of which cell each client wants, and the groups behind it.

A partition here is only weights [clients, cells]; `dealing` turns them into images. The method
paper names GL-Dir, SC-Dir, Patho and DomainNet without their construction; what these functions
draw is written at each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silva.data.dealing import Counts, Weights, deal_everything
from silva.data.spec import PartitionSpec
from silva.data.styles import STYLES, check_style
from silva.errors import PartitionError

FEWEST = 10
"""Train images that gl_dir leaves to every client when it deals out everything."""

_TRIES = 100
_PLANTED_ALPHA = 10.0


@dataclass(frozen=True)
class Cells:
    """The train images in cells: all arrays have one entry a cell.

    level is the value of the column that the partition goes by (0 without one), label the class,
    stock the number of train images, at least one.
    """

    level: Counts
    label: Counts
    stock: Counts

    def __len__(self) -> int:
        return len(self.stock)


@dataclass(frozen=True)
class Mixture:
    """weights [clients, cells] >= 0, every row with a positive entry; groups [clients], -1: none;
    styles: the style of each group, empty when the partition has none."""

    weights: Weights
    groups: Counts
    styles: tuple[str, ...] = ()


def mixture(
    spec: PartitionSpec, cells: Cells, clients: int, samples: int, rng: np.random.Generator
) -> Mixture:
    """Draw the weights of a synthetic partition; PartitionError says which number cannot be."""
    if spec.name == "gl_dir":
        return gl_dir(cells, clients, spec.alpha, samples, rng)
    if spec.name == "sc_dir":
        n_super, groups = spec.count("n_super"), spec.count("groups")
        return sc_dir(cells, clients, n_super, spec.alpha, groups, rng)
    if spec.name == "patho_shards":
        return patho_shards(cells, clients, spec.count("c"), rng)
    if spec.name == "patho_grouped":
        return patho_grouped(cells, clients, spec.count("c"), rng)
    if spec.name == "domain_dir":
        return domain_dir(cells, clients, spec.alpha, rng)
    return planted(cells, clients, spec.count("groups"), spec.styles, rng)


def gl_dir(
    cells: Cells, clients: int, alpha: float, samples: int, rng: np.random.Generator
) -> Mixture:
    """Each class is shared out over the clients by a draw of Dirichlet(alpha).

    With samples = 0 the draw is repeated until every client has FEWEST images, at most _TRIES
    times. With samples > 0 each client keeps its class proportions and takes that many.
    """
    if samples == 0 and clients * FEWEST > cells.stock.sum():
        raise PartitionError(
            f"{clients} clients need {FEWEST} train images each, the data set has "
            f"{cells.stock.sum()}",
            remedy="lower clients",
        )
    for _ in range(1 if samples else _TRIES):
        shares = rng.dirichlet(np.full(clients, alpha), size=len(cells)).T * cells.stock
        if samples:
            return Mixture(_with_fallback(shares, cells.stock), _no_groups(clients))
        if deal_everything(shares, cells.stock).sum(axis=1).min() >= FEWEST:
            return Mixture(shares, _no_groups(clients))
    raise PartitionError(
        f"in {_TRIES} draws some of {clients} clients always had fewer than {FEWEST} train "
        f"images at alpha {alpha}",
        remedy="raise alpha, lower clients, or set samples per client",
    )


def _with_fallback(shares: Weights, stock: Counts) -> Weights:
    """Rows that sum to 1, with a trace of every class to turn to when a client's own run out."""
    own = shares.sum(axis=1, keepdims=True)
    overall = stock / stock.sum()
    rows = np.where(own > 0, shares / np.where(own > 0, own, 1.0), overall)
    mixed: Weights = rows + 1e-9 * overall
    return mixed


def sc_dir(
    cells: Cells,
    clients: int,
    n_super: int,
    alpha: float,
    groups: int,
    rng: np.random.Generator,
) -> Mixture:
    """Each client has n_super superclasses, Dirichlet(alpha) over the classes inside them.

    With groups > 0 the superclasses are dealt to that many disjoint sets, and every client has the
    set of its group; otherwise each client draws its own.
    """
    supers = np.unique(cells.level)
    if max(groups, 1) * n_super > len(supers):
        raise PartitionError(
            f"{max(groups, 1)} x {n_super} superclasses are wanted, the data set has {len(supers)}",
            remedy="lower n_super or groups",
        )
    if groups:
        sets = rng.permutation(supers)[: groups * n_super].reshape(groups, n_super)
        member = _balanced(clients, groups, rng)
        chosen = sets[member]
    else:
        member = _no_groups(clients)
        chosen = np.stack([rng.permutation(supers)[:n_super] for _ in range(clients)])
    inside = (chosen[:, :, None] == cells.level).any(axis=1)
    return Mixture(_dirichlet_inside(inside, alpha, rng), member)


def patho_shards(cells: Cells, clients: int, c: int, rng: np.random.Generator) -> Mixture:
    """Every client holds one shard of each of c classes; no two clients need the same c classes.

    A class is cut into as many equal shards as clients hold it. The next client takes the classes
    whose shards would be largest (ties at random), so that shards are as equal as can be.
    """
    _enough_classes(cells, c)
    taken = np.zeros(len(cells), dtype=np.int64)
    weights = np.zeros((clients, len(cells)))
    for client in range(clients):
        order = np.lexsort((rng.random(len(cells)), -cells.stock / (taken + 1)))[:c]
        weights[client, order] = 1.0
        taken[order] += 1
    return Mixture(weights, _no_groups(clients))


def patho_grouped(cells: Cells, clients: int, c: int, rng: np.random.Generator) -> Mixture:
    """The classes are dealt to disjoint sets of c, the clients to the sets: clients of a set form
    a group. Classes that fill no set of c stay unused, as do sets when clients are fewer."""
    _enough_classes(cells, c)
    groups = min(len(cells) // c, clients)
    sets = rng.permutation(len(cells))[: groups * c].reshape(groups, c)
    member = _balanced(clients, groups, rng)
    weights = np.zeros((clients, len(cells)))
    np.put_along_axis(weights, sets[member], 1.0, axis=1)
    return Mixture(weights, member)


def domain_dir(cells: Cells, clients: int, alpha: float, rng: np.random.Generator) -> Mixture:
    """Each client belongs to one domain, its group; Dirichlet(alpha) over the classes in there.

    Clients are spread evenly; fewer clients than domains take part of the domains.
    """
    domains = rng.permutation(np.unique(cells.level))
    member = _balanced(clients, min(len(domains), clients), rng)
    inside = domains[member][:, None] == cells.level
    return Mixture(_dirichlet_inside(inside, alpha, rng), domains[member])


def planted(
    cells: Cells, clients: int, groups: int, styles: tuple[str, ...], rng: np.random.Generator
) -> Mixture:
    """Groups that differ in style alone; all clients draw nearly alike from all classes.

    styles: one a group; without any the first `groups` of STYLES.
    """
    chosen = tuple(check_style(style) for style in styles) or STYLES[:groups]
    if len(chosen) != groups or len(set(chosen)) != groups:
        raise PartitionError(
            f"{groups} groups need as many different styles, there are {len(set(chosen))}",
            remedy=f"lower groups (at most {len(STYLES)}) or name one style a group",
        )
    member = _balanced(clients, groups, rng)
    everything = np.ones((clients, len(cells)), dtype=np.bool_)
    weights = _dirichlet_inside(everything, _PLANTED_ALPHA, rng)
    return Mixture(weights, member, chosen)


def _no_groups(clients: int) -> Counts:
    return np.full(clients, -1, dtype=np.int64)


def _balanced(clients: int, groups: int, rng: np.random.Generator) -> Counts:
    """Deal clients to groups whose sizes differ by at most one, in random order."""
    if groups > clients:
        raise PartitionError(
            f"{groups} groups are more than {clients} clients",
            remedy="raise clients or lower the number of groups",
        )
    return rng.permutation(np.arange(clients, dtype=np.int64) % groups)


def _dirichlet_inside(inside: NDArray[np.bool_], alpha: float, rng: np.random.Generator) -> Weights:
    """One draw of Dirichlet(alpha) a client over its own cells; 0 outside.

    A trace is added to every own cell: a small alpha draws exact zeros, and a client whose main
    class runs out still has its other classes to turn to.
    """
    weights = np.zeros(inside.shape)
    for row, mine in zip(weights, inside, strict=True):
        row[mine] = rng.dirichlet(np.full(np.count_nonzero(mine), alpha)) + 1e-9
    return weights


def _enough_classes(cells: Cells, c: int) -> None:
    if c > len(cells):
        raise PartitionError(
            f"{c} classes per client are wanted, the train images have {len(cells)}",
            remedy="lower c",
        )
