"""Supervised fine-tuning: a language model learns to answer as the assistant of conversations does.

stage.py          the settings
conversations.py  the splits: rendered by a chat template, tokenized, packed, published
driver.py         the stage in the process that starts the job
train.py          what every rank does
scoring.py        held-out answers: loss and exact ones with intervals, before and after
"""
