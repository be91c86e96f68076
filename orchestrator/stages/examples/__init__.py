"""What the stages share that count in examples: N of them, in epochs, each seen once an epoch.

driving.py    the plan of a job on them, and what the record says of them
splitting.py  which of them are held out
published.py  arrays that the driver publishes once, by content, and every rank opens
ragged.py     rows of tokens of different lengths
feeding.py    the order in which they are seen, cut into steps, micro-batches and ranks
resuming.py   a checkpoint's account of them, and whether a job can go on from it
training.py   the parts of a run that trains on them, and what the loop calls back
"""
