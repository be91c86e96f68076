"""Classification of examples, each a row of numbers with a label.

stage.py           its settings
driver.py          the stage in the process that starts the job
train.py           what every rank calls
classification.py  a run: what is measured, and what is shown
by_hand.py         the run of a network in numpy, whose steps are written out
confusion.py       which class was taken for which: matrix, picture and table
mistakes.py        the pictures that were read wrongly
"""
