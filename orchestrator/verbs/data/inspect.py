"""`orchestrate data inspect`: what is in the data, as a table, examples and a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from data import Prepared, ShardSet
from data.order import shuffled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PASSED_OVER = 20  # files that are not read, on the screen
COUNTED_TOKENS = 1 << 24  # at most so many are read to count how often each occurs
PICTURE_INK = "#2a78d6"


def inspect(prepared: Prepared, console: Console, examples: int, picture: Path) -> None:
    """Print counts, filter reports and examples of all datasets; draw the histograms."""
    table = Table(title=None)
    for column in ("dataset", "documents", "tokens", "bytes/token"):
        table.add_column(column, justify="left" if column == "dataset" else "right", no_wrap=True)
    table.add_column("tokens in a document: 5%, 50%, 95%, most", justify="right")
    for name, dataset in prepared.datasets.items():
        for split, shards in (("train", dataset.train), ("validation", dataset.validation)):
            lengths = document_lengths(shards)
            quantiles = np.quantile(lengths, (0.05, 0.5, 0.95, 1.0))
            table.add_row(
                f"{name} {split}",
                f"{shards.documents:,}",
                f"{shards.tokens:,}",
                f"{shards.manifest.bytes / shards.tokens:.2f}",
                "  ".join(f"{value:,.0f}" for value in quantiles),
            )
    console.print(table)
    for name, dataset in prepared.datasets.items():
        for line in dataset.report.lines():
            console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)
        for path, reason in dataset.passed_over[:PASSED_OVER]:
            console.print(f"{name}: not read: {path}: {reason}", markup=False, soft_wrap=True)
        if (more := len(dataset.passed_over) - PASSED_OVER) > 0:
            console.print(f"{name}: not read: {more:,} more, which a run has on record")
        for number in chosen_documents(dataset.train, examples):
            text = prepared.tokenizer.decode(dataset.train.document(number)[:-1].tolist())
            place = dataset.train.place(number)
            head = f"\n{name} document {number}, {place}"
            console.print(head, style="bold", markup=False, soft_wrap=True)
            shown = text if len(text) <= 400 else text[:400] + " ..."
            console.print(shown, markup=False, highlight=False, soft_wrap=True)
    draw(prepared, picture)
    console.print(f"\nhistograms: {picture}", markup=False, highlight=False)


def document_lengths(shards: ShardSet) -> NDArray[np.int64]:
    """Tokens of each document, end of text included, (documents,)."""
    return np.diff(shards.offsets)


def chosen_documents(shards: ShardSet, count: int) -> list[int]:
    """Some documents from all over the set; the same ones every time."""
    order = shuffled(shards.fingerprint[:32].encode(), min(shards.documents, 1 << 20))
    return sorted(order[:count].tolist())


def token_counts(shards: ShardSet, vocabulary: int) -> NDArray[np.int64]:
    """How often each id occurs in COUNTED_TOKENS spread over the set, (vocabulary,)."""
    pieces = max(1, min(256, shards.tokens >> 12))
    size = min(shards.tokens, COUNTED_TOKENS) // pieces
    counts = np.zeros(vocabulary, dtype=np.int64)
    for start in np.linspace(0, shards.tokens - size, pieces, dtype=np.int64).tolist():
        counts += np.bincount(shards.read(start, start + size), minlength=vocabulary)
    return counts


def draw(prepared: Prepared, path: Path) -> None:
    """Two histograms of each train split: document lengths, and frequency of tokens by rank."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2 * len(prepared.datasets)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(prepared.datasets), 2, squeeze=False)
    for (left, right), (name, dataset) in zip(grid, prepared.datasets.items(), strict=True):
        _draw_lengths(left, name, document_lengths(dataset.train))
        _draw_ranks(right, name, token_counts(dataset.train, prepared.tokenizer.vocab_size))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_lengths(axes: "Axes", name: str, lengths: NDArray[np.int64]) -> None:
    edges = np.geomspace(1, max(2, int(lengths.max()) + 1), 41)
    axes.hist(lengths, bins=list(edges), color=PICTURE_INK)
    axes.axvline(float(np.median(lengths)), color="#c3372f", linewidth=1)
    axes.set(
        xscale="log",
        xlabel=f"tokens in a document (median {np.median(lengths):,.0f})",
        ylabel="documents",
        title=f"{name}: {len(lengths):,} documents",
    )


def _draw_ranks(axes: "Axes", name: str, counts: NDArray[np.int64]) -> None:
    ranked = np.sort(counts[counts > 0])[::-1]
    axes.plot(np.arange(1, len(ranked) + 1), ranked, color=PICTURE_INK)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="rank of the token",
        ylabel="occurrences",
        title=f"{name}: {len(ranked):,} of {len(counts):,} tokens in {counts.sum():,} counted",
    )
