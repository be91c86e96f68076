"""About how many tokens a job's data will have, by a sample of it: nothing is made or stored."""

from collections.abc import Mapping
from dataclasses import dataclass

from data.config import DataConfig, SourceConfig
from data.files import DataError
from data.filters import filters_of
from data.order import Order
from data.order.mixture import Mixture, Phase
from data.sources.sampling import Sample, sample_of
from data.tokenizer import Tokenizer, TokenizerConfig, load_or_train, vocab_size

PIECE = 2048  # characters of a text that are measured or trained on together
HELD_OUT = 4  # each so manyth piece measures a tokenizer that the others have trained
# Half a second. 128 kB of English tell the tokens of a byte within 3%; more text changes little.
TRAINED_BYTES = 2**19
MEASURED_BYTES = 2**17


@dataclass(frozen=True)
class Estimate:
    """About how much of a dataset its filters leave, repeated documents among it."""

    documents: float
    """Of the train split."""
    train: float
    """Tokens, with one end of text for each document."""
    validation: float
    """Tokens, as well."""
    sampled_bytes: int
    """UTF-8 bytes of the text that was looked at."""


def estimate(data: DataConfig, settings: TokenizerConfig) -> dict[str, Estimate] | None:
    """About how much each dataset holds; None if one of them is not on this machine.

    A tokenizer that the job trains is stood in for by one of the sample.

    Raises:
        DataError: what was looked at can't be used as asked.
    """
    sources = data.sources()
    samples: dict[str, Sample] = {}
    given: dict[str, Sample] = {}  # of documents that are for validation alone
    for name, source in sources.items():
        where = f"data.datasets.{name}.filters" if data.datasets else "data.filters"
        for own, found in ((source, samples), (source.validation_source(), given)):
            if own is None:
                continue
            sample = _filtered(own, where)
            if sample is None:
                return None
            found[name] = sample
    pieces = [
        text[start : start + PIECE]
        for name, sample in samples.items()
        if sources[name].weight is not None
        for record in sample.records
        for text in record.texts
        for start in range(0, len(text), PIECE)
    ]
    per_byte, fraction = _tokens_per_byte(settings, pieces), data.validation_fraction or 0.0
    estimates = {}
    for name, sample in samples.items():
        documents, tokens = _size(sample, per_byte)
        share = 0.0 if name in given else fraction
        estimates[name] = Estimate(
            (1 - share) * documents,
            (1 - share) * tokens,
            _size(given[name], per_byte)[1] if name in given else share * tokens,
            sample.text_bytes,
        )
    return estimates


def _size(sample: Sample, per_byte: float) -> tuple[float, float]:
    """About how many documents and tokens the whole has."""
    documents = sample.scale * sum(len(record.texts) for record in sample.records)
    return documents, sample.scale * sample.text_bytes * per_byte + documents


def repetitions(data: DataConfig, found: Mapping[str, Estimate], tokens: int) -> dict[str, float]:
    """About how many epochs of each dataset a job of so many tokens sees.

    Raises:
        DataError: the schedule can't be followed.
    """
    rows = {
        name: own.documents if data.packing == "one_document" else own.train / data.row_length
        for name, own in found.items()
    }
    orders = {name: Order(max(1, round(count)), data.seed, name) for name, count in rows.items()}
    phases = [Phase(start, dict(weights)) for start, weights in data.weights()]
    return Mixture(orders, phases, data.seed).repetitions(tokens // data.row_length)


def _filtered(source: SourceConfig, where: str) -> Sample | None:
    """A sample without what filters of single records, and the rule on empty texts, leave out."""
    filters = filters_of(source.filters, where)
    sample = sample_of(source, filters.columns)
    if sample is None:
        return None
    kept = filters.apply(sample.records, filters.report())
    records = [record for _, record in kept if all(map(str.strip, record.texts))]
    if sample.scale == 1 and not records:
        raise DataError(
            f"data.source={source.source} data.path={source.path}: there is no text in it that the "
            "filters leave; bring more"
        )
    return Sample(records, sample.scale)


def _tokens_per_byte(settings: TokenizerConfig, pieces: list[str]) -> float:
    """Tokens of the pieces over their bytes; of a tokenizer to be trained, on other text than its.

    A tokenizer makes fewer tokens of what it was trained on, which most of a large text is not.
    """
    measured, tokenizer = _some(pieces[::HELD_OUT], MEASURED_BYTES), None
    if settings.kind != "bpe":
        tokenizer = load_or_train(settings, lambda: iter(()))
    elif len(pieces) >= HELD_OUT:
        others = [piece for number, piece in enumerate(pieces) if number % HELD_OUT]
        tokenizer = Tokenizer.train(
            _some(others, TRAINED_BYTES),
            vocab_size(settings),
            digits=settings.digits,
            mask=settings.mask,
        )
    size = sum(len(piece.encode("utf-8")) for piece in measured)
    if tokenizer is None or not size:
        return 1.0  # there can't be more
    return sum(len(tokenizer.encode(piece)) for piece in measured) / size


def _some(pieces: list[str], most: int) -> list[str]:
    """Pieces of about so many bytes, from the beginning to the end of the list."""
    size = sum(len(piece.encode("utf-8")) for piece in pieces)
    return pieces[:: max(1, -(-size // most))]
