"""Vectors of texts, by pooling what a saved model makes of their words or tokens.

N texts, D numbers per vector, T tokens.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data import Tokenizer
from models.configs import WordVectorsConfig

if TYPE_CHECKING:
    from models.language import LanguageModel

Vectors = NDArray[np.float32]
Encoder = Callable[[Sequence[str]], Vectors]
"""Texts to their vectors (N, D)."""

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
WORDS = "words"  # in a checkpoint's account of its examples: what the rows of a table stand for
MOST_TOKENS = 512  # of a text that are read at once; longer ones in parts


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case: letters, with apostrophes inside."""
    return WORD.findall(text.lower())


def unit(vectors: Vectors) -> Vectors:
    """Vectors (..., D) of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = vectors / np.maximum(lengths, 1e-12)
    return scaled


def open_encoder(path: Path, role: str | None = None) -> Encoder:
    """What makes vectors of texts with the newest model of a run, or with that of a checkpoint.

    Of a language model, the mean over the tokens of a text of their final vectors; of word
    vectors, the mean over its words.

    Raises:
        ValueError: nothing valid is there, or a model of neither kind.
    """
    from orchestrator.training import checkpoint

    found = checkpoint.find(path)
    config, reader = found.model_config(role), checkpoint.open_role(found, role)
    if isinstance(config, WordVectorsConfig):
        words = found.facts["examples"][WORDS]
        table = checkpoint.read_whole(reader, "inputs.weight").numpy()
        return lambda texts: mean_of_words(texts, words, table)
    from models.language import LanguageModel

    model = checkpoint.build_writer(reader, config, found.path)
    if not isinstance(model, LanguageModel):
        raise ValueError(
            f"{found.path} holds a model whose final vectors can't be had; name a run of a family "
            "of ours, such as gpt, lstm or skipgram"
        )
    if found.tokenizer is None:
        raise ValueError(f"{found.path} has no tokenizer: its model was not trained on text")
    tokenizer = Tokenizer.load(found.tokenizer)
    return lambda texts: mean_of_tokens(texts, tokenizer, model)


def mean_of_words(texts: Sequence[str], words: Sequence[str], table: Vectors) -> Vectors:
    """The mean of the vectors (V, D) of the words of each text: (N, D); zeros if it has none."""
    number = {word: place for place, word in enumerate(words)}
    found = np.zeros((len(texts), table.shape[1]), dtype=np.float32)
    for own, text in zip(found, texts, strict=True):
        known = [number[word] for word in words_of(text) if word in number]
        if known:
            own[:] = unit(table[known]).mean(0)
    return found


def mean_of_tokens(texts: Sequence[str], tokenizer: Tokenizer, model: "LanguageModel") -> Vectors:
    """The mean of the final vectors of the tokens of each text: (N, D); zeros if it has none."""
    import torch

    from models.decoding.stepping import evaluating

    most = min(MOST_TOKENS, model.config.max_positions) - 1
    found = []
    with evaluating(model), torch.inference_mode():
        for text in texts:
            tokens = tokenizer.encode(text)
            total = torch.zeros(model.head_weight.shape[1])
            for start in range(0, len(tokens), most):
                part = [tokenizer.end_of_text, *tokens[start : start + most]]
                total += model.hidden(torch.tensor([part]))[0, 1:].float().sum(0)  # (T, D)
            found.append((total / max(len(tokens), 1)).numpy())
    return np.stack(found)


def similarities(query: Vectors, texts: Vectors) -> Vectors:
    """Cosines (N,) of a query (D,) with texts (N, D), from the mean of the texts.

    Vectors of a language model share a direction that says nothing of one text rather than another
    (Mu and Viswanath 2018); of two texts or fewer there is no mean to speak of.
    """
    mean = texts.mean(0) if len(texts) > 2 else np.zeros_like(query)
    cosines: Vectors = unit(texts - mean) @ unit(query - mean)
    return cosines
