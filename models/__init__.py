"""Models: a config per family, the module that it builds, and what that costs.

families.py   MODELS, the table of families; build, config_to_dict, config_from_dict
configs/      sizes and choices of each family
formulas/     parameters and operations of each family; cost.py asks them
gpt.py        a decoder-only Transformer, of layers.py, with a cache.py of keys and values
decoding/     how it writes: sampling, beams, streams of text
blocks.py     attention over whole sequences, in transformer.py, an encoder-decoder, and bert.py
mlp.py        layers of fully connected units
by_hand.py    the same in numpy, with the equations of back-propagation written out
dropout.py    dropout that belongs to the sample

Importing this package does not import torch; `build` does.
"""

from models.families import MODELS, Family, build, config_from_dict, config_to_dict

__all__ = ["MODELS", "Family", "build", "config_from_dict", "config_to_dict"]
