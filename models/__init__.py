"""Models: a config per family, the module that it builds, and what that costs.

families.py   MODELS, the table of families; build, config_to_dict, config_from_dict
configs/      sizes and choices of each family
formulas/     parameters and operations of each family; cost.py asks them
language.py   what language models share; cache.py, what they keep of the tokens seen
gpt.py        a decoder-only Transformer, of layers.py
adapters.py   few parameters that learn beside weights that stay
pruning.py    weights, heads and neurons taken out
recurrent/    layers whose state goes from token to token: rnn, lstm
window.py     a fully connected network over a window of tokens
decoding/     how it writes: sampling, beams, streams of text
blocks.py     attention over whole sequences, in transformer.py, an encoder-decoder, and bert.py
word_vectors.py  vectors of words from their neighbours
mlp.py        layers of fully connected units
by_hand.py    the same in numpy, with the equations of back-propagation written out
loss.py       the loss of a language model, without its logits
dropout.py    dropout that belongs to the sample
products.py   matrix products with weights that are kept sorted

Importing this package does not import torch; `build` does.
"""

from models.families import MODELS, Family, build, config_from_dict, config_to_dict

__all__ = ["MODELS", "Family", "build", "config_from_dict", "config_to_dict"]
