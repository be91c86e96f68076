"""What the stages share in which a policy learns from the answers that it writes itself.

section.py   the settings that all of them have
prompts.py   what is asked: rendered by a chat template, tokenized, published, opened by ranks
driving.py   the stage in the process that starts the job
training.py  the models of a run, the parts of its steps, its evaluation
looping.py   the loop around the steps, and what it saves
judging.py   what answers are worth, and whether a run may go on by that
resampling.py exchanges prompts that teach nothing for further ones
recording.py what the record says of a step's answers
clock.py     seconds of the parts of a step
asking.py    which answers a rank wants in a step, and from which seeds
engines.py   rollout engines in processes of their own, which write the answers
text.py      text that the policy learns beside answers: made, and how far a run is in it
pretraining.py its gradient, on every rank
updating.py  one optimizer step on answers, and the objective of a policy
measuring.py the true reward of a policy on held-out prompts
outcome.py   the true reward before and after, with intervals; answers before and after
auditing.py  checks of a policy and its settings before a long run
keeping.py   the rollouts as a run keeps them
"""
