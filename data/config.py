"""Which text to train on and in what order: the settings, what each means, and their checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from data.files import DataError
from data.messages import check_choice

FORMATS: dict[str, tuple[str, ...]] = {
    "python_docs": (),
    "text": (".txt", ".md"),
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv",),
    "parquet": (".parquet", ".arrow"),
    "hf": (),
}
"""Sources, and the names of the files that each reads from a folder (also + .gz, .zst)."""
RECORDS = ("text", "conversations", "preferences")
PACKINGS = ("chunked", "best_fit", "one_document")
COLUMN_TYPES = ("string", "integer", "number", "boolean", "list", "object")
SINGLE = "data"  # name of the one dataset of a job without a mixture


@dataclass
class ContractConfig:
    """What every record must satisfy; the first that does not is an error with file and row."""

    columns: dict[str, str] = field(default_factory=dict)
    """Columns that must be there, each with its type: string, integer, number, boolean, list or
    object. Empty: only the columns that are read."""
    not_null: list[str] = field(default_factory=list)
    """Columns that must have a value in every record."""
    not_empty: bool = False
    """Whether an empty text is an error; otherwise it is dropped and counted."""
    max_characters: int | None = None
    """Longest text. None: no limit. (Shorter ones can be left out: filters, `length`.)"""

    def __post_init__(self) -> None:
        """Check names of types and ranges."""
        for name, kind in self.columns.items():
            check_choice(f"data.contract.columns.{name}", kind, COLUMN_TYPES)
        if self.max_characters is not None and self.max_characters < 1:
            raise DataError(
                f"data.contract.max_characters={self.max_characters} must be at least 1, or null"
            )


@dataclass
class SourceConfig:
    """One dataset: where its records come from and what is done to them before tokenizing."""

    source: str = "python_docs"
    """python_docs (inside every Python, no network), text, jsonl, csv, parquet or hf."""
    path: str | None = None
    """File, folder, glob or URL (http, s3, gs, hf, file); for source=hf a dataset name (name or
    name:subset) or a local folder."""
    split: str = "train"
    """Split to read of an hf dataset; the other sources have only this one."""
    text_column: str = "text"
    """Column (or JSON field) that holds the text."""
    records: str = "text"
    """text, conversations (column messages) or preferences (columns chosen and rejected)."""
    streaming: bool = False
    """hf: read the dataset as it comes, without downloading it whole."""
    contract: ContractConfig = field(default_factory=ContractConfig)
    filters: list[dict[str, Any]] = field(default_factory=list)
    """What is left out, in this order: [{name: length, min: 20}, ...] (data/filters/)."""
    weight: int | None = 1
    """Share of the rows in a mixture from the start. None: it enters by a phase."""

    def check(self, where: str) -> None:
        """Raise DataError, naming the setting, for a field that can't be.

        `where` is the dataset in the config: data, or data.datasets.NAME.
        """
        check_choice(f"{where}.source", self.source, tuple(FORMATS))
        check_choice(f"{where}.records", self.records, RECORDS)
        if self.source != "python_docs" and not self.path:
            what = "NAME" if self.source == "hf" else "FILE"
            raise DataError(f"{where}.source={self.source} needs {where}.path={what}")
        if self.source == "python_docs" and self.path is not None:
            raise DataError(
                f"{where}.path={self.path} is not read by {where}.source=python_docs; add "
                f"{where}.source=text (or jsonl, csv, parquet, hf) or drop the path"
            )
        if self.source != "hf" and self.split != "train":
            raise DataError(
                f"{where}.split={self.split} is for source=hf only; name files in {where}.path"
            )
        if self.source != "hf" and self.streaming:
            raise DataError(f"{where}.streaming=true is for {where}.source=hf only; drop it")
        if self.records != "text" and self.source in ("python_docs", "text"):
            raise DataError(
                f"{where}.records={self.records} needs columns, which source={self.source} has "
                f"not; try {where}.source=jsonl"
            )
        if not self.text_column:
            raise DataError(
                f"{where}.text_column is empty; it must name a column, for example text"
            )


@dataclass
class PhaseConfig:
    """From which row on which shares hold."""

    start: int
    """First row of the phase, counted over the whole run."""
    weights: dict[str, int]
    """Share of each dataset; those not named rest."""


@dataclass
class DriftConfig:
    """Comparison of the data with that of an earlier job, before training starts."""

    reference: str | None = None
    """Run folder or shard set whose data this data should be like. None: no comparison."""
    policy: str = "warn"
    """What to do when it is not: warn (the run records it) or stop."""

    def __post_init__(self) -> None:
        """Check the policy."""
        check_choice("data.drift.policy", self.policy, ("warn", "stop"))


@dataclass
class DataConfig(SourceConfig):
    """The dataset of a job, or a mixture of datasets; how it is split, cut, ordered and read."""

    datasets: dict[str, SourceConfig] = field(default_factory=dict)
    """A mixture: a dataset under each name. Empty: the one that source and path describe."""
    phases: list[PhaseConfig] = field(default_factory=list)
    """Later shares of a mixture. A run that is resumed may add phases, never change old ones."""
    max_repetition: float | None = None
    """Most epochs of any dataset in the job; more is refused before it starts. None: no limit."""
    validation_fraction: float = 0.05
    """Share of the documents, chosen by their hash, that is kept for validation."""
    sequence_length: int = 256
    """Tokens predicted per sequence; a run that is resumed may change it."""
    row_tokens: int | None = None
    """Tokens that are shuffled as one, a multiple of every sequence length of the run. None: the
    sequence length."""
    packing: str = "chunked"
    """chunked (documents end to end, cut into rows), best_fit (whole documents fill rows), or
    one_document (a row holds a single document)."""
    isolate_documents: bool = False
    """Whether attention stays inside each document, and positions count from its start."""
    on_bad_block: str = "stop"
    """When stored tokens are damaged beyond repair: stop, or skip (recorded in the state)."""
    drift: DriftConfig = field(default_factory=DriftConfig)
    seed: int = 0
    """Seed of the sample order."""

    def __post_init__(self) -> None:
        """Check every field; messages name the setting, its value and what would do."""
        for name, dataset in self.datasets.items():
            dataset.check(f"data.datasets.{name}")
        self.check("data")
        check_choice("data.packing", self.packing, PACKINGS)
        check_choice("data.on_bad_block", self.on_bad_block, ("stop", "skip"))
        if not 0 < self.validation_fraction < 1:
            fraction = self.validation_fraction
            raise DataError(f"data.validation_fraction={fraction} must be inside 0..1; try 0.05")
        if self.sequence_length < 1:
            raise DataError(f"data.sequence_length={self.sequence_length} must be >= 1; try 256")
        if self.seed < 0:
            raise DataError(f"data.seed={self.seed} must be 0 or more")
        if self.max_repetition is not None and not self.max_repetition > 0:
            raise DataError(
                f"data.max_repetition={self.max_repetition} must be more than 0 epochs, or null"
            )
        self._check_row()
        self._check_mixture()

    def _check_row(self) -> None:
        row, sequence = self.row_tokens, self.sequence_length
        if row is not None and (row < sequence or row % sequence):
            raise DataError(
                f"data.row_tokens={row} must be a multiple of data.sequence_length={sequence}; "
                f"try {max(1, row // sequence) * sequence}"
            )

    def _check_mixture(self) -> None:
        if self.phases and not self.datasets:
            raise DataError("data.phases needs a mixture: data.datasets={NAME: {...}, ...}")
        if not self.datasets:
            return
        if self.source != "python_docs" or self.path is not None or self.filters:
            raise DataError(
                "data.datasets is a mixture, so source, path and filters stand in each of its "
                f"datasets; drop data.source={self.source}, data.path and data.filters"
            )
        kinds = {dataset.records for dataset in self.datasets.values()}
        if len(kinds) > 1:
            raise DataError(
                f"data.datasets mix the records {', '.join(sorted(kinds))}; one kind a job"
            )
        if all(dataset.weight is None for dataset in self.datasets.values()):
            raise DataError(
                "data.datasets: no dataset has a weight at the start; set "
                f"data.datasets.{next(iter(self.datasets))}.weight=1"
            )

    @property
    def row_length(self) -> int:
        """Tokens of a row."""
        return self.row_tokens or self.sequence_length

    def sources(self) -> dict[str, SourceConfig]:
        """The datasets by name; a single one is called SINGLE."""
        if self.datasets:
            return dict(self.datasets)
        own = {f.name: getattr(self, f.name) for f in fields(SourceConfig)}
        return {SINGLE: SourceConfig(**own)}

    def weights(self) -> list[tuple[int, Mapping[str, int]]]:
        """(first row, share of each dataset) of each phase, the first one included."""
        start = {n: s.weight for n, s in self.sources().items() if s.weight is not None}
        return [(0, start), *((phase.start, phase.weights) for phase in self.phases)]
