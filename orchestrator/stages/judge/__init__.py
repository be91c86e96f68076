"""Pairs of answers compared by a model, an endpoint or a rule, for reward models and dpo.

stage     its settings
driver    the pairs, the judge, what it will cost
judge     what every rank does: asks, and writes down what was said
outcome   what the judge is worth: against itself, against what is known, against people
"""
