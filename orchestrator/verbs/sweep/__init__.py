"""Sweeps: many jobs of one search space; the best of them, and how sure that is.

command     orchestrate sweep: what is asked for, checked, and how it ended
settings    what a sweep is told beside its jobs: sampler, trials, pruner, objective, ...
space       the search space: which settings have which values
proposals   which values a trial gets, and whether it goes on; the home of optuna
population  population based training: the worse trials go on from the better ones
table       trials.jsonl, written before anything happens: the truth about the sweep
running     the loop: propose, start, listen, stop, write down
launching   how a trial is started, heard and stopped; warm processes on this machine
worker      such a process
planned     what it will take, told before: --plan
report      the end: ranking, best config, importance, cost, how sure; pictures
in_order    jobs one after another, of `run --multirun` and `run sweep=NAME`
"""
