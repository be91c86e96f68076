"""Classification of texts, from random weights or from those of a masked model.

stage.py   its settings
texts.py   the labelled texts: read, cut into splits, tokenized, published once, opened by ranks
driver.py  the stage in the process that starts the job
train.py   what every rank does
"""
