"""Reward models: a language model with a value head learns which answer is the better one.

stage.py     the settings
rankings.py  the splits: rendered by a chat template, tokenized, published; their micro-batches
driver.py    the stage in the process that starts the job
train.py     what every rank does
scoring.py   what it tells of held-out answers: pairs told apart, calibration, rewards
"""
