"""How a model writes: its logits become choices, its choices become text.

generating.py   `generate` and `stream`: prompts in one pass, then a token at a time
batching.py     `write_rows`: many rows through few slots, waiting ones take the places of ended
beams.py        `beam_search`: the likeliest continuations instead of drawn ones
translating.py  `translate`: target texts of an encoder-decoder, greedy or by beams
sampling.py     logits -> probabilities -> one token, as pure functions
stepping.py     the pass over one new token per row, made fast
text.py         tokens -> pieces of text as they come, and stop strings
explaining.py   one choice taken apart, number by number
"""

from models.decoding.batching import Row, write_rows
from models.decoding.beams import Hypothesis, beam_search
from models.decoding.explaining import Choice, explain
from models.decoding.generating import Generated, generate, stream
from models.decoding.sampling import Sampling, draw, row_seed, row_seeds
from models.decoding.stepping import TextModel
from models.decoding.text import TextStream
from models.decoding.translating import EncoderDecoder, translate

__all__ = [
    "Choice",
    "EncoderDecoder",
    "Generated",
    "Hypothesis",
    "Row",
    "Sampling",
    "TextModel",
    "TextStream",
    "beam_search",
    "draw",
    "explain",
    "generate",
    "row_seed",
    "row_seeds",
    "stream",
    "translate",
    "write_rows",
]
