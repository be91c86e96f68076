"""What a model costs, by the formulas of its family; models/cost.py is where to ask.

cost.py        what is worked out
gpt.py         a decoder-only Transformer
blocks.py      an encoder-decoder, and an encoder for masked tokens
recurrent.py   recurrent networks
window.py      a fully connected network over a window of tokens
word_vectors.py   word vectors
mlp.py         layers of fully connected units
loss.py        the loss of language models

Plain arithmetic, exact where it says so, so that a plan needs neither torch nor memory.
"""
