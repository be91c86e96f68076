"""What the stages share that work on text of the data service.

preparing, tokenizing   on the driver: the data is made once
stage                   the settings that they share
driving                 on the driver: what a job will do, by its settings and its data
resuming                whether a job can go on from a checkpoint, by its data
drift, recording        is the data like that of an earlier job; what a run keeps of its data
positions               on the ranks: what a longer context is worth
scoring, sampling       on the ranks: loss, perplexity and bits per byte; texts that a model writes
"""
