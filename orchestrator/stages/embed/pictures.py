"""Pictures of word vectors: the words on a map, and what dimensions buy.

V words, D numbers per vector.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.record.figures import COLORS, INK, MUTED, plain_axes
from orchestrator.stages.pooling import Vectors, unit

ON_MAP = 150  # most frequent words that are drawn, after those that stand nearly everywhere
EVERYWHERE = 40
DIMENSIONS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
ADDED = (2, 4, 8, 16, 32, 64)
TRIALS = 2000  # pairs of random vectors for each dimension
CANDIDATES = 1000  # vectors among which those of a sum are looked for


def draw_map(words: Sequence[str], vectors: Vectors, seed: int, picture: Path) -> None:
    """Frequent words in two dimensions, by PCA (which keeps directions) and t-SNE (neighbours)."""
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    first = EVERYWHERE if len(words) > 2 * EVERYWHERE else 0
    shown = words[first : first + ON_MAP]
    points = unit(vectors[first : first + ON_MAP])
    figure = Figure(figsize=(16, 8), layout="constrained", facecolor="white")
    perplexity = min(12.0, (len(shown) - 1) / 3)
    maps = {
        "PCA": PCA(2, random_state=seed),
        "t-SNE of cosine distances": TSNE(
            2, perplexity=perplexity, metric="cosine", init="random", random_state=seed
        ),
    }
    for axes, (name, method) in zip(figure.subplots(1, 2), maps.items(), strict=True):
        places = method.fit_transform(points)
        plain_axes(axes, f"{len(shown)} frequent words, {name}", "", "")
        axes.scatter(*places.T, s=4, color=COLORS[1])
        for word, (x, y) in zip(shown, places, strict=True):
            axes.annotate(word, (x, y), fontsize=8, color=INK, ha="center", va="bottom")
        axes.tick_params(labelbottom=False, labelleft=False)
    figure.savefig(picture, dpi=80)


def cosine_stds(seed: int) -> NDArray[np.float64]:
    """Std of the cosine of random Gaussian vectors, for each of DIMENSIONS; 1/sqrt(D) in theory."""
    rng = np.random.default_rng(seed)
    found = []
    for D in DIMENSIONS:
        a, b = (rng.standard_normal((TRIALS, D)) for _ in range(2))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        found.append(float(cosines.std()))
    return np.array(found)


def recovered(seed: int) -> NDArray[np.float64]:
    """Share of added vectors that a sum still tells: (len(ADDED), len(DIMENSIONS)).

    Of CANDIDATES random vectors of length 1, n are added up. Those with the n largest dot products
    with the sum are taken for them. An added one has 1 + noise there, any other noise alone, of
    the std sqrt(n/D): what was added is lost as n comes near D.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros((len(ADDED), len(DIMENSIONS)))
    for column, D in enumerate(DIMENSIONS):
        vectors = rng.standard_normal((CANDIDATES, D))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for row, n in enumerate(ADDED):
            chosen = rng.permuted(np.tile(np.arange(CANDIDATES), (30, 1)), axis=1)[:, :n]
            sums = vectors[chosen].sum(1)  # (30, D)
            best = np.argsort(-(sums @ vectors.T), axis=1)[:, :n]
            hits = [len(np.intersect1d(a, b)) for a, b in zip(chosen, best, strict=True)]
            found[row, column] = np.mean(hits) / n
    return found


def draw_dimensions(seed: int, picture: Path) -> None:
    """How far random vectors are from a right angle, and what of a sum can be told."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    plain_axes(left, "Random vectors are nearly orthogonal", "std of their cosine", "dimension d")
    left.loglog(DIMENSIONS, cosine_stds(seed), "o", color=COLORS[0], label="measured", base=2)
    theory = [D**-0.5 for D in DIMENSIONS]
    left.loglog(DIMENSIONS, theory, color=COLORS[1], label="1 / sqrt(d)", base=2)
    left.legend(frameon=False, labelcolor=INK)
    plain_axes(
        right,
        f"A sum of n vectors tells which of {CANDIDATES:,} are in it",
        "share recovered",
        "dimension d",
    )
    for color, n, shares in zip(COLORS, ADDED, recovered(seed), strict=False):
        right.semilogx(
            DIMENSIONS, shares, "o-", color=color, label=f"n = {n}", base=2, markersize=4
        )
    right.legend(frameon=False, labelcolor=INK)
    for axes in (left, right):
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.tick_params(colors=MUTED)
    figure.savefig(picture, dpi=100)
