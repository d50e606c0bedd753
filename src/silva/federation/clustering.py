"""How many clusters, and who belongs together: rules over a matrix of client distances.

The paper's rule is the eigengap of a normalised Laplacian with a median kernel. On real clients most
distances are alike, the kernel is nearly constant and the eigengap finds too few clusters; the other
rules read the same distances. Only `parallel_analysis` and the two eigengaps may answer K = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from silva.errors import RunError
from silva.federation.config import ClusteringConfig

Matrix = NDArray[np.float64]

MARGIN = 1.15
"""A step counts when it is this many times as long as noise makes one."""

SEPARATE = 0.45
"""Least silhouette of clusters; points spread evenly over as many axes stay below 0.4."""


@dataclass(frozen=True)
class Grouping:
    """Labels [n] from 0, the Laplacian's eigenvalues, and each considered K with its score."""

    labels: NDArray[np.int64]
    eigenvalues: Matrix
    scores: list[tuple[int, float]]

    @property
    def k(self) -> int:
        return len(set(self.labels.tolist()))


def group(
    distances: Matrix, config: ClusteringConfig, *, rule: str = "", seed: int = 0
) -> Grouping:
    """Cluster n clients by their distances [n, n] with `rule` (default: the configured one)."""
    n, rule = len(distances), rule or config.rule
    if n < 3:
        return Grouping(np.zeros(n, dtype=np.int64), np.zeros(n), [])
    k_min, k_max = max(config.k_min, 2), min(config.k_max, n - 1)
    if k_min > k_max:
        return Grouping(np.zeros(n, dtype=np.int64), np.zeros(n), [])
    if rule == "fixed" and not 1 <= config.k <= n:
        raise RunError(
            f"cannot make {config.k} clusters of {n} clients",
            where="clustering.k",
            remedy=f"choose 1 to {n}",
        )
    labels, eigenvalues, scores = _RULES[rule](distances, k_min, k_max, config.k, seed)
    return Grouping(_merge_small(labels, distances, config.min_size), eigenvalues, scores)


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


def _parallel_analysis(distances: Matrix, k_min: int, k_max: int, _k: int, seed: int) -> Outcome:
    """Clusters show as eigenvalues that stand out of those of noise (Horn, 1965).

    1 - d is an inner product of projectors (equation 8), so K separate clusters give K - 1 large
    eigenvalues of the centred similarities. The last step down that is longer than noise makes one
    decides. Labels: Ward's tree in the space of those K - 1 eigenvectors. Clients that differ by
    degrees have long steps too but no clusters in that space: below a silhouette of `SEPARATE`, and
    without a long step, K = 1.
    """
    n = len(distances)
    ascending, vectors = np.linalg.eigh(_centred(1.0 - distances))
    values: Matrix = ascending[::-1].astype(np.float64)
    vectors = vectors[:, ::-1]
    last = min(k_max, n // 2 + 1)
    steps = _steps(values[: n - 1], last)
    scores = [(k, float(steps[k - 2])) for k in range(2, last + 1)]
    least = MARGIN * _longest_noise_step(n, last)
    found = [k for k, step in scores if k >= k_min and step > least]
    labels = np.zeros(n, dtype=np.int64)
    if found:
        axes = found[-1] - 1
        signal = np.maximum(values[:axes] - np.median(values[axes : n - 1]), 0.0)
        places = vectors[:, :axes] * np.sqrt(signal)
        cut = _cut(linkage(places, method="ward"), found[-1])
        if silhouette_score(places, cut) >= SEPARATE:
            labels = cut
    return labels, _median_spectrum(distances)[0], scores


def _centred(similarity: Matrix) -> Matrix:
    centre = np.eye(len(similarity)) - 1.0 / len(similarity)
    centred: Matrix = centre @ similarity @ centre
    return centred


def _steps(values: Matrix, k_max: int) -> Matrix:
    """Steps down between the first `k_max` descending eigenvalues, in units of the bulk's median.

    The bulk is what follows the first third, where no step belongs to a cluster.
    """
    steps: Matrix = -np.diff(values)
    bulk = float(np.median(steps[len(steps) // 3 :]))
    return steps[: k_max - 1] / max(bulk, 1e-12)


@lru_cache(maxsize=32)
def _longest_noise_step(n: int, k_max: int) -> float:
    """99th percentile of the longest step among n clients that differ by symmetric noise alone."""
    rng, longest = np.random.default_rng(0), []
    for _ in range(200 if n <= 200 else 40):
        noise = rng.normal(size=(n, n))
        values: Matrix = np.linalg.eigvalsh(_centred((noise + noise.T) / 2)).astype(np.float64)
        # Centring leaves one eigenvalue zero, which is no part of the noise.
        values = np.delete(values, np.abs(values).argmin())[::-1]
        longest.append(_steps(values, k_max).max())
    return float(np.percentile(longest, 99))


def _fixed(distances: Matrix, k_min: int, k_max: int, k: int, seed: int) -> Outcome:
    """K is given: spectral clustering with the median kernel."""
    values, vectors = _median_spectrum(distances)
    return _spectral_labels(vectors, k, seed), values, [(k, 0.0)]


_RULES: dict[str, Callable[[Matrix, int, int, int, int], Outcome]] = {
    "eigengap": _eigengap,
    "local_scaling": _local_scaling,
    "silhouette": _silhouette,
    "gap": _gap,
    "parallel_analysis": _parallel_analysis,
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
