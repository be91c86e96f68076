"""What a model costs, by the formulas of its family; models/cost.py is where to ask.

cost.py        what is worked out
gpt.py         a decoder-only Transformer
recurrent.py   recurrent networks
window.py      a fully connected network over a window of tokens
mlp.py         layers of fully connected units

Plain arithmetic, exact where it says so, so that a plan needs neither torch nor memory.
"""
