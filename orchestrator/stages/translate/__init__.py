"""Translation of pairs of texts by an encoder-decoder.

pairs.py    the two splits: cut by what a pair says, tokenized, published; their micro-batches
driver.py   the stage in the process that starts the job
train.py    what every rank does
scoring.py  held-out texts translated by the saved weights: exact, BLEU, chrF; what attends to what
"""
