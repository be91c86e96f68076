"""Pretraining on masked tokens, as BERT was: each is told from all tokens around it.

masking.py   which tokens are masked, and by what, as a function of the sample alone
driver.py    the stage in the process that starts the job
train.py     what every rank does
sides.py     what either side of a masked token tells, and what it puts there, as a picture
"""
