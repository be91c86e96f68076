import numpy as np
import pytest

from data.ask.documents import pieces_of, sightings_of
from data.config import DataConfig, SourceConfig
from data.feed.stream import Stream
from data.order.mixture import MIXTURE_BLOCK
from tests.data.numbered import END, shard_set

R, T = 20, 10
STOP = 400 * R


class Spelled:
    """A tokenizer whose text is the numbers."""

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.fixture(scope="module", params=["chunked", "best_fit", "one_document"])
def stream(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    sets = {
        "a": shard_set(folder / "a", 900, name="a"),
        "b": shard_set(folder / "b", 333, every=11, name="b"),
    }
    source = {"source": "text", "path": "p"}
    datasets = {"a": SourceConfig(**source, weight=2), "b": SourceConfig(**source)}
    return Stream.open(
        sets,
        DataConfig(
            datasets=datasets, sequence_length=T, row_tokens=R, packing=request.param, seed=3
        ),
    )


def test_the_pieces_of_a_sequence_are_its_targets(stream):
    count = STOP // T
    tokens, mask, _ = stream.read(stream.samples(T * np.arange(count), T), T)
    found = pieces_of(stream, Spelled(), 0, T, count)
    for row, valid, pieces in zip(tokens, mask, found, strict=True):
        said = [int(word) for piece in pieces for word in piece.text.split()]
        assert said == row[1:][valid].tolist()
        places = [t for piece in pieces for t in range(piece.start, piece.start + piece.tokens)]
        assert places == np.flatnonzero(valid).tolist()
        for piece in pieces:
            assert piece.place == f"{piece.dataset}:{piece.document}"
            assert piece.shard.startswith("shard-")


def test_when_finds_every_sighting_and_no_other(stream):
    seen = {}
    for cursor, pieces in zip(
        range(0, STOP, T), pieces_of(stream, Spelled(), 0, T, STOP // T), strict=True
    ):
        for piece in pieces:
            place = (cursor, piece.epoch, piece.row, piece.offset, piece.tokens)
            seen.setdefault((piece.dataset, piece.document), []).append(place)
    for name, own in stream.rows.items():
        for document in range(own.shards.documents):
            found = [
                (s.cursor, s.epoch, s.row, s.offset, s.tokens)
                for s in sightings_of(stream, name, document, T, 0, STOP)
            ]
            assert sorted(found) == sorted(seen.get((name, document), []))


def test_end_of_text_is_a_token_of_its_document(stream):
    own = stream.rows["a"]
    block = MIXTURE_BLOCK * R
    sightings = [s for s in sightings_of(stream, "a", 1, T, 0, block) if s.epoch == 0]
    tokens = sum(s.tokens for s in sightings)
    assert tokens == len(own.shards.document(1))
    assert own.shards.document(1)[-1] == END
