"""Direct preference optimization: a language model learns to prefer one answer to another.

stage.py    the settings
pairs.py    the splits: rendered by a chat template, tokenized, published; their micro-batches
driver.py   the stage in the process that starts the job
train.py    what every rank does, with the policy and the frozen reference
"""
