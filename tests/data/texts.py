"""The texts of a dataset, as its source gives them."""

from collections.abc import Iterator

from data.config import SourceConfig
from data.sources import read_records, units_of


def documents(config: SourceConfig) -> Iterator[str]:
    """The texts of all records, in the dataset's own order."""
    for unit in units_of(config):
        for record in read_records(config, unit):
            yield from record.texts
