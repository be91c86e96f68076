"""Recurrent networks: a state goes from token to token, of one size however long the text.

language.py   a language model of layers of one kind
rnn.py        a layer of tanh units
lstm.py       a layer of cells with gates
stepping.py   what both do from step to step: the product with the state, and where a text begins

Each layer is one autograd function with its backward pass written out (back-propagation through
time). The products over the inputs of all steps are one matrix product, in both directions; only
what depends on the state before goes step by step. oneDNN does all steps of an LSTM at once where
that is faster: in fp32 on a CPU, if no row begins a text (`stepping.fuses`).
"""
