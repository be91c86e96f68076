"""Which text to train on and in what order: the settings, what each means, and their checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from data.addresses import hide
from data.files import DataError, expand_home
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
    """What every record must satisfy. The first that does not stops the job, with file and row."""

    columns: dict[str, str] = field(default_factory=dict)
    """Columns that every record must have, each with the type of its values: string, integer,
    number, boolean, list or object. The column of the text is always needed."""
    not_null: list[str] = field(default_factory=list)
    """Columns whose value may not be null in any record."""
    not_empty: bool = False
    """true: an empty text stops the job. false: it is left out and counted."""
    max_characters: int | None = None
    """Characters of the longest text allowed; a longer one stops the job. null: no limit. (To
    leave long or short texts out instead, use the filter `length`.)"""

    def __post_init__(self) -> None:
        """Check names of types and ranges."""
        for name, kind in self.columns.items():
            check_choice(f"data.contract.columns.{name}", kind, COLUMN_TYPES)
        if self.max_characters is not None and self.max_characters < 1:
            raise DataError(
                f"data.contract.max_characters={self.max_characters} must be at least 1, or null"
            )


@dataclass
class ValidationConfig:
    """Which documents are kept for validation and never trained on."""

    path: str | None = None
    """Files, of the kind of the dataset's, whose documents are validated on; those of data.path are
    all trained on. null: a part of data.path, see `take` and data.validation_fraction."""
    split: str | None = None
    """For source=hf: the split that is validated on; data.split is all trained on. null: data.split
    of validation.path where that is set."""
    take: str = "hash"
    """Which part of data.path: hash (documents by the hash of their text, so that a text stays on
    its side whatever else is in the data) or tail (the last bytes of the files in order; exact for
    text, to the record for jsonl)."""

    @property
    def own(self) -> bool:
        """Whether its documents are others than those of data.path and data.split."""
        return self.path is not None or self.split is not None


@dataclass
class SourceConfig:
    """One dataset: where its records come from, and what is done to them before tokenizing."""

    source: str = "python_docs"
    """Kind of the files: text, jsonl, csv, parquet (also Arrow), hf (a Hugging Face dataset), or
    python_docs (the documentation inside every Python; needs no files and no network)."""
    path: str | None = None
    """Where they are: a file, a folder, a glob or a URL (http, s3, gs, hf, file). For source=hf the
    name of a dataset on the hub (name or name:subset), or a local folder."""
    split: str = "train"
    """Which split of a Hugging Face dataset to read. (How much of it is kept for validation is
    data.validation_fraction.)"""
    text_column: str = "text"
    """Name of the column, or of the JSON field, that holds the text."""
    document_characters: int | None = 8192
    """For source=text: characters of the longest document; a longer file is cut into several, at
    blank lines where it has some. null: a file is a document. (In any source a text of more than
    1,048,576 characters becomes several documents, and that is said.)"""
    records: str = "text"
    """What a record is: text, conversations (a column `messages`), or preferences (a pair of
    answers in columns `chosen` and `rejected`)."""
    streaming: bool = False
    """For source=hf: read the dataset as it arrives, instead of downloading it whole first."""
    contract: ContractConfig = field(default_factory=ContractConfig)
    filters: list[dict[str, Any]] = field(default_factory=list)
    """What is left out of the records, also of those for validation, in this order:
    [{name: length, min: 20}, ...]. Names and options: data/filters/."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    weight: int | None = 1
    """In a mixture: how many rows come from this dataset, relative to the others' weights. null:
    none at the start; one of data.phases brings it in."""

    @property
    def described(self) -> str:
        """Source and path, without secrets, for people."""
        return f"{self.source} {hide(self.path)}" if self.path else self.source

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
        characters = self.document_characters
        if self.source != "text" and characters != SourceConfig.document_characters:
            raise DataError(
                f"{where}.document_characters={characters} is for {where}.source=text only, whose "
                "files have no records; drop it"
            )
        if characters is not None and characters < 1:
            raise DataError(
                f"{where}.document_characters={characters} must be at least 1, or null: a file is "
                "a document"
            )
        self._check_validation(where)

    def _check_validation(self, where: str) -> None:
        own = self.validation
        check_choice(f"{where}.validation.take", own.take, ("hash", "tail"))
        if own.split is not None and self.source != "hf":
            raise DataError(
                f"{where}.validation.split={own.split} is for {where}.source=hf only; name files "
                f"in {where}.validation.path"
            )
        if own.path is not None and self.source == "python_docs":
            raise DataError(
                f"{where}.validation.path={own.path} is not read by {where}.source=python_docs; "
                f"drop it, or add {where}.source=text and {where}.path"
            )
        if own.take == "tail" and own.own:
            raise DataError(
                f"{where}.validation.take=tail is a part of {where}.path, but validation.path or "
                "validation.split names other documents; drop one of the two"
            )
        if own.take == "tail" and self.source not in ("text", "jsonl"):
            raise DataError(
                f"{where}.validation.take=tail counts the bytes of text and jsonl files, and "
                f"{where}.source={self.source} has others; put the documents into files of their "
                f"own: {where}.validation.path=FILES"
            )

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        found = {}
        if self.validation.own:
            found["validation.take"] = "validation.path or validation.split has its own documents"
        if self.source in ("python_docs", "text"):
            found["text_column"] = f"source={self.source} has no columns"
        elif self.records != "text":
            found["text_column"] = f"records={self.records} have columns of their own names"
        return found

    def validation_source(self) -> "SourceConfig | None":
        """The documents that are validated on, as a source. None: a part of this one."""
        own = self.validation
        if not own.own:
            return None
        return replace(
            self,
            path=own.path or self.path,
            split=own.split or self.split,
            validation=ValidationConfig(),
        )


@dataclass
class PhaseConfig:
    """New weights for a mixture, from some row of the run on."""

    start: int
    """Row of the run from which on they hold, a multiple of 4096."""
    weights: dict[str, int]
    """Weight of each dataset; from one that is not named, no more rows come."""


@dataclass
class DriftConfig:
    """Comparison of this data with that of an earlier job, before training starts."""

    reference: str | None = None
    """Run folder or prepared dataset that this data should be like. null: no comparison."""
    policy: str = "warn"
    """What to do where it differs: warn (train all the same; it is on record) or stop."""

    def __post_init__(self) -> None:
        """Check the policy."""
        self.reference = expand_home("data.drift.reference", self.reference)
        check_choice("data.drift.policy", self.policy, ("warn", "stop"))


@dataclass
class DataConfig(SourceConfig):
    """The dataset of a job, or its mixture of datasets; how they are split, cut and ordered."""

    datasets: dict[str, SourceConfig] = field(default_factory=dict)
    """A mixture: name -> dataset. Empty: one dataset, described by source, path and so on above."""
    phases: list[PhaseConfig] = field(default_factory=list)
    """Changes of the mixture during the run. A resumed run may add phases, but not change those
    whose rows it has drawn."""
    max_repetition: float | None = None
    """How often the job may go through a dataset, in epochs; more is refused before it starts.
    null: no limit."""
    validation_fraction: float | None = None
    """Share of data.path that is kept for validation; data.validation says which part. null: 0.05,
    or 0 where data.validation names documents of their own."""
    sequence_length: int = 256
    """Tokens of a sequence. A resumed run may change it."""
    row_tokens: int | None = None
    """Tokens of a row, which is what is shuffled: a multiple of every sequence length that the
    run will have. null: the sequence length."""
    packing: str = "chunked"
    """How documents fill rows: chunked (end to end, cut where a row ends), best_fit (several whole
    documents in a row), or one_document (one in a row)."""
    isolate_documents: bool = False
    """true: tokens attend only to their own document, and positions count from its start."""
    on_bad_block: str = "stop"
    """What to do when stored tokens are damaged: stop, or skip the rows that hold them (which is
    recorded in the checkpoint)."""
    drift: DriftConfig = field(default_factory=DriftConfig)
    seed: int = 0
    """Seed of the order of the rows."""

    def __post_init__(self) -> None:
        """Check every field; messages name the setting, its value and what would do."""
        for name, dataset in self.datasets.items():
            dataset.check(f"data.datasets.{name}")
        self.check("data")
        check_choice("data.packing", self.packing, PACKINGS)
        check_choice("data.on_bad_block", self.on_bad_block, ("stop", "skip"))
        self._check_fraction()
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

    def _check_fraction(self) -> None:
        own = all(source.validation.own for source in self.sources().values())
        if self.validation_fraction is None:
            self.validation_fraction = 0.0 if own else 0.05
        fraction = self.validation_fraction
        if own and fraction != 0:
            raise DataError(
                f"data.validation_fraction={fraction} takes a part of what is trained on, but "
                "data.validation names documents of their own; drop it, or set it to 0"
            )
        if not own and not 0 < fraction < 1:
            raise DataError(
                f"data.validation_fraction={fraction} must be inside 0..1; try 0.05, or name "
                "documents to validate on: data.validation.path=FILES"
            )

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
        default = SourceConfig()
        names = [own.name for own in fields(SourceConfig)]
        unread = [name for name in names if getattr(self, name) != getattr(default, name)]
        if unread:
            raise DataError(
                "data.datasets is a mixture, so nothing would read "
                f"{', '.join(f'data.{name}' for name in unread)}; write that for each dataset "
                f"(data.datasets.NAME.{unread[0]}=...) and leave it out here (data=mixture does)"
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

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        found = {} if self.drift.reference else {"drift.policy": "it is for data.drift.reference"}
        if not self.datasets:
            return {**super().unread(), **found, "weight": "it is for a mixture (data=mixture)"}
        for name, source in self.datasets.items():
            found |= {f"datasets.{name}.{key}": why for key, why in source.unread().items()}
        return found

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
