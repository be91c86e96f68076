"""The splits of a job's labelled texts: cut by a hash, tokenized, published once, opened by ranks.

N texts of a split, B texts of a micro-batch, T tokens of the longest of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import Tokenizer
from data.messages import counted as told
from data.messages import did_you_mean, listed
from data.order import Ids
from data.sources.python_docs import docstrings
from data.sources.table_files import table_parts
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.classify_text.stage import ClassifyTextConfig
from orchestrator.stages.examples.published import Published, publish_arrays
from orchestrator.stages.examples.ragged import joined, padded
from orchestrator.stages.examples.splitting import is_held_out

VERSION = 1  # of what is in a published folder
SPLITS, ARRAYS = ("train", "validation"), ("tokens", "ends", "labels")
PACKAGES = (
    *("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml"),
)
LEAST_CHARACTERS = 40
"""Of a docstring, for its package to be told from it."""
MOST_CLASSES = 100


@dataclass(frozen=True)
class LabelledTexts:
    """The texts of each split with the names of their classes, as they were read."""

    splits: dict[str, list[tuple[str, str]]]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class PublishedTexts(Published):
    """Names the published texts of a job."""

    classes: tuple[str, ...]
    vocab_size: int
    tokens: float
    """Mean of the tokens of a training text that the model sees."""
    cut: int
    """Texts of which the model sees the first tokens alone."""


@dataclass(frozen=True)
class Batch:
    """Texts of one forward pass."""

    tokens: NDArray[np.int64]
    """(B, T), padded behind."""
    real: NDArray[np.bool_]
    """(B, T): what is no padding."""
    labels: NDArray[np.int64]
    """(B,)."""
    sample_ids: Ids
    """(B,): positions in the run; in an evaluation, places in the split."""
    counted: NDArray[np.bool_]
    """(B,): which are texts, and no filling."""

    @property
    def weight(self) -> int:
        """Texts."""
        return int(self.counted.sum())


@dataclass(frozen=True)
class Split:
    """The texts of a split; their tokens stand end to end."""

    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]
    """(N,)."""
    labels: NDArray[np.int64]
    """(N,)."""

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> Batch:
        """The micro-batch of the texts at `rows` (B,); see `Split` in stages/examples."""
        own = padded(self.tokens, self.ends, rows, 0)
        return Batch(*own, self.labels[rows], sample_ids, counted)


_read: dict[tuple[str, int, int], LabelledTexts] = {}


def read_texts(stage: ClassifyTextConfig, seed: int) -> LabelledTexts:
    """All texts, cut into splits; once, also for a plan and then for the job.

    Raises:
        ValueError: names what does not fit, and what would.
    """
    path = Path(stage.data or "")
    asked = repr(stage), seed, path.stat().st_mtime_ns if path.is_file() else 0
    if asked not in _read:
        found = _read_now(stage, seed)
        _read.clear()  # the last ones alone: they may be large
        _read[asked] = found
    return _read[asked]


def _read_now(stage: ClassifyTextConfig, seed: int) -> LabelledTexts:
    """Read all texts and cut them into splits; a text that comes again is taken once.

    Raises:
        ValueError: a column or a value is missing, there are no two classes, or a split has none.
    """
    examples = dict(_docstrings() if stage.data is None else _rows(Path(stage.data), stage))
    splits: dict[str, list[tuple[str, str]]] = {name: [] for name in SPLITS}
    for text, label in examples.items():
        held_out = is_held_out(text, stage.validation_fraction, seed)
        splits["validation" if held_out else "train"].append((text, label))
    classes = tuple(sorted({label for _, label in splits["train"]}))
    source = stage.data or "the docstrings"
    if len(classes) < 2 or not splits["validation"]:
        raise ValueError(
            f"{source}: {told(len(splits['train']), 'text')} of {told(len(classes), 'class')} to "
            f"train on and {len(splits['validation'])} for validation, and there must be two "
            "classes at least and some for validation; give more texts, or another "
            f"stage.validation_fraction than {stage.validation_fraction}"
        )
    if len(classes) > MOST_CLASSES:
        raise ValueError(
            f"{source}: column {stage.label} has {len(classes):,} different values, which are no "
            f"classes ({listed(classes[:3])} ...); give another: stage.label=COLUMN"
        )
    for text, label in splits["validation"]:
        if label not in classes:
            raise ValueError(
                f"{source}: all texts of the class {label} are for validation, as {text[:30]!r}; "
                "give more of them, leave the class out, or try another seed"
            )
    return LabelledTexts(splits, classes)


def publish_texts(
    read: LabelledTexts, tokenizer: Tokenizer, longest: int, cache: Path
) -> PublishedTexts:
    """Tokenize and publish texts, unless that has been done.

    Args:
        read: all of them.
        tokenizer: of the model.
        longest: tokens of a text that the model sees.
        cache: root of the cache.
    """
    arrays: dict[str, NDArray[Any]] = {}
    cut = 0
    for name, own in read.splits.items():
        rows = [tokenizer.encode(text) for text, _ in own]
        cut += sum(len(row) > longest for row in rows)
        arrays[f"{name}-tokens"], arrays[f"{name}-ends"] = joined([row[:longest] for row in rows])
        labels = [read.classes.index(label) for _, label in own]
        arrays[f"{name}-labels"] = np.array(labels, dtype=np.int64)
    about = {"version": VERSION, "classes": list(read.classes)}
    train, validation = (len(read.splits[name]) for name in SPLITS)
    return PublishedTexts(
        publish_arrays(arrays, about, cache, {TOKENIZER: tokenizer.json}),
        train,
        validation,
        read.classes,
        tokenizer.vocab_size,
        len(arrays["train-tokens"]) / train,
        cut,
    )


def _docstrings() -> Iterator[tuple[str, str]]:
    return (own for own in docstrings(PACKAGES) if len(own[0]) >= LEAST_CHARACTERS)


def _rows(path: Path, stage: ClassifyTextConfig) -> Iterator[tuple[str, str]]:
    """Text and class of each row of a table; rows count from 1."""
    if not path.is_file():
        raise ValueError(
            f"stage.data={path} is no file; give a table such as FILE.csv or FILE.parquet, or null "
            "for the docstrings of Python"
        )
    row = 0
    for part in table_parts(path):
        names = part.schema.names
        for setting, name in (("text", stage.text), ("label", stage.label)):
            if name not in names:
                raise ValueError(
                    f"{path} has no column {name}{did_you_mean(name, names)}; it has "
                    f"{listed(names)}; name one of them: stage.{setting}=COLUMN"
                )
        columns = (part[name].to_pylist() for name in (stage.text, stage.label))
        for text, label in zip(*columns, strict=True):
            row += 1
            if not isinstance(text, str) or not text.strip() or label in (None, ""):
                lacks = stage.label if label in (None, "") else stage.text
                raise ValueError(
                    f"{path}: row {row} has no {'label' if lacks == stage.label else 'text'} in "
                    f"column {lacks}; fill it in, or leave the row out of the file"
                )
            yield text, str(label)
