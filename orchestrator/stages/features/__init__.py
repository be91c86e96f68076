"""What the stages share whose examples are rows of numbers, each with what is to be told.

section.py    the settings they have in common
sources.py    SOURCES, the sets of examples that have a name; every other one is a file
tables.py     the columns of a table, with categories and missing values
images.py     pictures and labels in MNIST's files, opened without unpickling what they say
points.py     problems in the plane, drawn by number: any example of a stream at any time
splits.py     the two splits, scaled, published or drawn; micro-batches of them
driving.py    the stage in the process that starts the job
resuming.py   whether a job can go on from a checkpoint
training.py   what every rank does
boundary.py   what a model says of each point of the plane, while it learns
"""
