"""Regression on examples: one number is told from others.

stage.py      its settings
driver.py     the stage in the process that starts the job
train.py      what every rank does
linear.py     the best linear model in closed form, which the table and the picture compare with
kinks.py      what a network of ReLU units computes, written out
"""
