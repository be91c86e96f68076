"""Supervised fine-tuning: a language model learns to answer as the assistant of conversations does.

stage.py          the settings
tasks.py          a mixture: several sources, and how often an epoch shows what is of each
packing.py        which conversations share a row
conversations.py  the splits: rendered by a chat template, tokenized, packed, published
driver.py         the stage in the process that starts the job
base.py           text that the weights know: some of it again, and how much is forgotten
train.py          what every rank does
scoring.py        held-out answers: loss and exact ones with intervals, before and after
writing.py        the same in writing: exact match and token F1, beside few-shot prompting
"""
