"""Word vectors, as their sizes."""

from dataclasses import dataclass
from typing import ClassVar

from models.configs.base import ModelConfig
from models.configs.checks import check_size


@dataclass
class WordVectorsConfig(ModelConfig):
    """Two vectors for each word: one as a centre, one as a neighbour (Mikolov et al. 2013).

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    trained_by: ClassVar[str | None] = "stage=embed"

    vocab_size: int | None = None
    """Words. None: those of the text."""
    width: int = 100
    """Numbers per vector."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        if self.vocab_size is not None:
            check_size("vocab_size", self.vocab_size)
        check_size("width", self.width)


@dataclass
class CBOWConfig(WordVectorsConfig):
    """Continuous bag of words: the mean of the neighbours tells the word between them.

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    family: str = "cbow"


@dataclass
class SkipGramConfig(WordVectorsConfig):
    """Skip-gram: a word tells each of its neighbours.

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    family: str = "skipgram"
