"""Hugging Face both ways: models of `transformers` as ours, and ours as theirs.

architectures.py   config.json <-> our config, for the architectures that ours can compute
tensors.py         which of their tensors make up each of ours
wrapped.py         every other architecture: a module of transformers behind our interface
encoder_decoder.py those that translate
cost.py            what such a module costs, counted on itself

Only `wrapped`, `encoder_decoder` and `cost` need the package transformers.
"""
