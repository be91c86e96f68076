"""Word vectors: words are like each other where their neighbours are.

stage.py        settings
words.py        text -> words, rare ones left out, frequent ones thinned; published once
pairs.py        centres, neighbours and negatives of a micro-batch
driver.py       the stage in the process that starts the job
train.py        what every rank does
looking.py      nearest words, analogies, the TensorBoard projector
pictures.py     the words on a map; what dimensions buy
"""
