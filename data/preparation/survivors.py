"""The records of a unit of input that are worth tokenizing, and the names of units in messages."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from data.config import SourceConfig
from data.drift.table_sketches import sketch_table
from data.files import DataError
from data.filters import filters_of
from data.filters.filters import EMPTY
from data.messages import cut
from data.records import Record
from data.sources import read_records
from data.sources.inputs import InputUnit, name_of


class Survivors:
    """The records that the local filters of a dataset let pass and that have text.

    Attributes:
        filters: of the dataset.
        report: of these filters and of the records without text, filled while records pass.
        records: how many passed so far.
        cut: how many texts were too long for one document, and became several.
    """

    def __init__(self, config: SourceConfig, unit: InputUnit) -> None:
        """Nothing is read yet."""
        self._config, self._unit = config, unit
        self.filters = filters_of(config.filters)
        self.report = self.filters.report()
        self.records = self.cut = 0
        self._columns: dict[str, list[object]] = defaultdict(list)

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Row in the unit, before any filter, and record.

        Raises:
            DataError: a record can't be read or breaks the contract; names file and row.
        """
        records = read_records(self._config, self._unit, self.filters.columns)
        no_text = self.report[EMPTY]
        for row, record in self.filters.apply(records, self.report):
            no_text.seen += 1
            self.cut += record.part == 1
            if not all(map(str.strip, record.texts)):
                reason = "white space alone" if all(record.texts) else "empty or null"
                self.report.drop(EMPTY, record.place, reason, record.texts, "")
                continue
            self.records += 1
            for name, value in record.columns.items():
                self._columns[name].append(value)
            yield row, record

    def table(self) -> dict[str, Any] | None:
        """A sketch (TableSketch) of the columns that contract and filters name, if there are any.

        Raises:
            DataError: a column holds values of several types; names it.
        """
        import pyarrow as pa

        arrays = {}
        for name, values in self._columns.items():
            try:
                arrays[name] = pa.array(values)
            except (pa.ArrowException, OverflowError) as error:
                unit = name_of_unit(self._config, self._unit)
                raise DataError(
                    f"{unit}: the column {cut(name)} holds values of several types "
                    f"({cut(str(error), 100)}); say its type in data.contract.columns, and the row "
                    "that breaks it is named"
                ) from None
        return sketch_table(pa.table(arrays)).to_dict() if arrays else None


def name_of_unit(config: SourceConfig, unit: InputUnit) -> str:
    """A unit for messages: which part of which files."""
    files = [name_of(file) for file in unit.files] or [config.source]
    name = files[0] if len(files) == 1 else f"{files[0]} ... {files[-1]}"
    if unit.start == 0 and unit.stop is None:
        return name
    return f"{name} from {unit.start} to {'its end' if unit.stop is None else unit.stop}"
