"""Classification of examples, each a row of numbers with a label.

tables.py     numbers and labels from scikit-learn's digits or a table, checked
examples.py   the two splits, standardised and published; the order in which they are seen
driver.py     the stage in the process that starts the job
train.py      what every rank does
confusion.py  which class was taken for which: matrix, picture and table
"""
