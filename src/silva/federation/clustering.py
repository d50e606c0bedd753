"""How many clusters, and who belongs together: rules over a matrix of client distances.

The paper's rule is the eigengap of a normalised Laplacian with a median kernel. On real clients most
distances are alike, the kernel is nearly constant and the eigengap finds too few clusters; the other
rules read the same distances. `separation` and the two eigengaps may answer K = 1 themselves; after
every rule, clusters that are too small join others, which may leave one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from silva.errors import RunError
from silva.federation.config import ClusteringConfig
from silva.federation.kernel_means import settled

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Grouping:
    """Labels [n] from 0, the Laplacian's eigenvalues, and each considered K with its score."""

    labels: NDArray[np.int64]
    eigenvalues: Matrix
    scores: list[tuple[int, float]]

    @property
    def k(self) -> int:
        return len(set(self.labels.tolist()))

    @property
    def score(self) -> float:
        """The best score that the rule gave to any K; 0 where it settled for one cluster."""
        return max((score for _, score in self.scores), default=0.0) if self.k > 1 else 0.0


def group(
    distances: Matrix, config: ClusteringConfig, *, rule: str = "", seed: int = 0
) -> Grouping:
    """Cluster n clients by their distances [n, n] with `rule` (default: the configured one)."""
    n, rule = len(distances), rule or config.rule
    k_min, k_max = _bounds(n, config)
    if n >= 2:
        refuse_impossible(replace(config, rule=rule), n)
    if n < 2 or (rule != "fixed" and (n < 3 or k_min > k_max)):
        return Grouping(np.zeros(n, dtype=np.int64), np.zeros(n), [])
    labels, eigenvalues, scores = _RULES[rule](distances, k_min, k_max, config.k, seed)
    return Grouping(_merge_small(labels, distances, config.min_size), eigenvalues, scores)


def refuse_impossible(config: ClusteringConfig, clients: int) -> None:
    """RunError when no number of clusters of so many clients is what the settings ask for."""
    if config.rule == "fixed" and not 1 <= config.k <= clients:
        raise RunError(
            f"cannot make {config.k} clusters of {clients} training clients",
            where="federation.clustering.k",
            remedy=f"choose 1 to {clients}",
        )
    if config.rule != "fixed" and config.k_min > config.k_max:
        raise RunError(
            f"{config.k_min} is more than k_max, {config.k_max}",
            where="federation.clustering.k_min",
            remedy="choose k_min <= k_max; one cluster is always considered",
        )


def considered(n: int, config: ClusteringConfig) -> range:
    """The K that `separation` compares with chance for n clients."""
    return _compared(n, *_bounds(n, config))


def _bounds(n: int, config: ClusteringConfig) -> tuple[int, int]:
    """The smallest and the largest K that a rule may choose for n clients."""
    return config.k_min, min(config.k_max, n - 1)


def _compared(n: int, k_min: int, k_max: int) -> range:
    """Those of them with two clients a cluster on average: fewer tell nothing of separation."""
    return range(k_min, min(k_max, n // 2) + 1)


Outcome = tuple[NDArray[np.int64], Matrix, list[tuple[int, float]]]


def _eigengap(distances: Matrix, k_min: int, k_max: int, _k: int, seed: int) -> Outcome:
    """Section 1.5 steps 5 and 6: median kernel, largest eigengap."""
    sigma = np.median(distances[~np.eye(len(distances), dtype=bool)])
    return _by_eigengap(np.full(len(distances), max(sigma, 1e-12)), distances, k_min, k_max, seed)


def _local_scaling(distances: Matrix, k_min: int, k_max: int, _k: int, seed: int) -> Outcome:
    """Kernel width of each client = distance to its 7th neighbour (Zelnik-Manor and Perona)."""
    nearest = np.sort(distances, axis=1)[:, min(7, len(distances) - 1)]
    return _by_eigengap(np.maximum(nearest, 1e-12), distances, k_min, k_max, seed)


def _by_eigengap(sigma: Matrix, distances: Matrix, k_min: int, k_max: int, seed: int) -> Outcome:
    values, vectors = _spectrum(distances, sigma)
    gaps = np.diff(values)
    scores = [(k, float(gaps[k - 1])) for k in range(k_min, k_max + 1)]
    best, score = max(scores, key=lambda item: item[1])
    if score <= 1.5 * np.median(gaps[: k_max + 1]):
        return np.zeros(len(distances), dtype=np.int64), values, scores
    return _spectral_labels(vectors, best, seed), values, scores


def _spectrum(distances: Matrix, sigma: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues (ascending) and eigenvectors of the normalised Laplacian."""
    affinity = np.exp(-(distances**2) / (2 * np.outer(sigma, sigma)))
    np.fill_diagonal(affinity, 0.0)
    scale = 1 / np.sqrt(np.maximum(affinity.sum(axis=1), 1e-12))
    laplacian = np.eye(len(distances)) - scale[:, None] * affinity * scale[None, :]
    values, vectors = np.linalg.eigh(laplacian)
    return values, vectors


def _spectral_labels(vectors: Matrix, k: int, seed: int) -> NDArray[np.int64]:
    rows = vectors[:, :k]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    fitted = KMeans(n_clusters=k, n_init=20, random_state=seed % 2**32).fit(rows)
    return fitted.labels_.astype(np.int64)


def _median_spectrum(distances: Matrix) -> tuple[Matrix, Matrix]:
    sigma = max(float(np.median(distances[~np.eye(len(distances), dtype=bool)])), 1e-12)
    return _spectrum(distances, np.full(len(distances), sigma))


def _tree(distances: Matrix, method: str = "average") -> Matrix:
    return linkage(squareform(distances, checks=False), method=method)


def _cut(tree: Matrix, k: int) -> NDArray[np.int64]:
    return fcluster(tree, k, criterion="maxclust").astype(np.int64) - 1


def _silhouette(distances: Matrix, k_min: int, k_max: int, _k: int, seed: int) -> Outcome:
    """Best mean silhouette over cuts of an average-linkage tree (FedLEASE's rule)."""
    tree, scores, best = _tree(distances), [], (-1.0, np.zeros(len(distances), dtype=np.int64))
    for k in range(k_min, k_max + 1):
        labels = _cut(tree, k)
        if len(set(labels.tolist())) < 2:
            continue
        score = float(silhouette_score(distances, labels, metric="precomputed"))
        scores.append((k, score))
        if score > best[0]:
            best = (score, labels)
    return best[1], _median_spectrum(distances)[0], scores


def _gap(distances: Matrix, k_min: int, k_max: int, _k: int, seed: int) -> Outcome:
    """Largest relative jump between successive merges of an average-linkage tree."""
    tree = _tree(distances)
    heights = tree[:, 2]
    n = len(distances)
    scores = [
        (k, float(heights[n - k] / max(heights[n - k - 1], 1e-12))) for k in range(k_min, k_max + 1)
    ]
    best, _ = max(scores, key=lambda item: item[1])
    return _cut(tree, best), _median_spectrum(distances)[0], scores


def _separation(distances: Matrix, k_min: int, k_max: int, _k: int, seed: int) -> Outcome:
    """The K whose clusters are farther apart than points without clusters can be cut.

    1 - d is an inner product (equation 8), so K separate clusters span K - 1 principal axes of the
    centred similarities. For each K, clients are cut by Ward's tree in the space of those axes; the
    score says by how many standard deviations the silhouette of the cut exceeds that of random
    points in as many axes (as the gap statistic compares, Tibshirani et al., 2001). The best of so
    many K must be better than the best of one set of random directions in a hundred, else K = 1.
    Labels are those of the cut after moves of single clients by all similarities, of which K - 1
    axes hold a part.
    """
    n = len(distances)
    axes, ks = _principal_axes(distances), _compared(n, k_min, k_max)
    scores, best = [], (chance_limit(n, ks), np.zeros(n, dtype=np.int64))
    for k in ks:
        labels, silhouette = _cut_by(axes, k)
        score = chances(n, k).score(silhouette)
        scores.append((k, score))
        if score > best[0]:
            best = (score, labels)
    labels = settled(1.0 - distances, best[1])
    return labels, _median_spectrum(distances)[0], scores


def _principal_axes(distances: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues (descending) and eigenvectors of the centred similarities 1 - d."""
    ascending, vectors = np.linalg.eigh(_centred(1.0 - distances))
    return ascending[::-1], vectors[:, ::-1]


def _cut_by(axes: tuple[Matrix, Matrix], k: int) -> tuple[NDArray[np.int64], float]:
    """Labels and silhouette of k clusters in the space of the first k - 1 axes."""
    values, vectors = axes
    bulk = np.median(values[k - 1 : len(values) - 1])
    signal = np.sqrt(np.maximum(values[: k - 1] - bulk, 0.0))
    return _cut_apart(vectors[:, : k - 1] * signal, k)


def _centred(similarity: Matrix) -> Matrix:
    centre = np.eye(len(similarity)) - 1.0 / len(similarity)
    centred: Matrix = centre @ similarity @ centre
    return centred


def _cut_apart(places: Matrix, k: int) -> tuple[NDArray[np.int64], float]:
    """Ward's tree over `places` [n, axes] cut into k, and the silhouette of the cut."""
    labels = _cut(linkage(places, method="ward"), k)
    if len(set(labels.tolist())) < 2:
        return labels, -1.0
    return labels, float(silhouette_score(places, labels))


@dataclass(frozen=True)
class Chance:
    """Silhouettes of random points: mean and standard deviation."""

    mean: float
    deviation: float

    def score(self, silhouette: float) -> float:
        """By how many standard deviations a silhouette exceeds the mean."""
        return (silhouette - self.mean) / self.deviation


@cache
def chances(n: int, k: int) -> Chance:
    """What cuts of n normal points in k - 1 axes into k clusters reach; remembered."""
    rng = np.random.default_rng(0)
    found = [_cut_apart(rng.normal(size=(n, k - 1)), k)[1] for _ in range(_draws(n))]
    return Chance(float(np.mean(found)), max(float(np.std(found)), 1e-6))


@cache
def chance_limit(n: int, ks: range) -> float:
    """Score that the best K of n random directions exceeds once in a hundred times; remembered.

    They go the whole way of clients, axes chosen among many and the best K of all, which finds more
    than a cut of as many axes as it needs.
    """
    rng = np.random.default_rng(1)
    best = []
    for _ in range(_draws(n) if ks else 0):
        points = rng.normal(size=(n, 2 * n))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        axes = _principal_axes(1.0 - points @ points.T)
        best.append(max(chances(n, k).score(_cut_by(axes, k)[1]) for k in ks))
    return float(np.percentile(best, 99)) if best else 0.0


def _draws(n: int) -> int:
    return 100 if n <= 200 else 20


def _fixed(distances: Matrix, k_min: int, k_max: int, k: int, seed: int) -> Outcome:
    """K is given: spectral clustering with the median kernel.

    The score is the silhouette of `separation` for this K: with K the same, the features' silhouettes
    are held against the same chance.
    """
    apart = 1 < k < len(distances)
    score = _cut_by(_principal_axes(distances), k)[1] if apart else 0.0
    values, vectors = _median_spectrum(distances)
    return _spectral_labels(vectors, k, seed), values, [(k, score)]


_RULES: dict[str, Callable[[Matrix, int, int, int, int], Outcome]] = {
    "eigengap": _eigengap,
    "local_scaling": _local_scaling,
    "silhouette": _silhouette,
    "gap": _gap,
    "separation": _separation,
    "fixed": _fixed,
}
RULES = tuple(_RULES)


def _merge_small(labels: NDArray[np.int64], distances: Matrix, min_size: int) -> NDArray[np.int64]:
    """Clusters below `min_size` join the one with the smallest mean distance; labels from 0 up."""
    labels = labels.copy()
    while True:
        names, sizes = np.unique(labels, return_counts=True)
        if len(names) < 2 or sizes.min() >= min_size:
            break
        inside = labels == names[sizes.argmin()]
        others = [c for c in names if c != names[sizes.argmin()]]
        means = [distances[np.ix_(inside, labels == c)].mean() for c in others]
        labels[inside] = others[int(np.argmin(means))]
    first_seen = list(dict.fromkeys(labels.tolist()))
    return np.array([first_seen.index(label) for label in labels], dtype=np.int64)
