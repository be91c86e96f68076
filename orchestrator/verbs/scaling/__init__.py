"""`orchestrate scaling`: laws from measured runs, and what follows from them.

command    the verb, and its fits    choice    the model for a budget
prediction the loss of one run       best      the best value of a setting
"""
