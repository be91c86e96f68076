"""What a job can do: one folder per stage, and the table of them.

table.py        STAGES, the table of them
stage.py        what a stage declares to the job around it, and what the two exchange
run.py          the job as a rank sees it
result.py       what a rank gives back at its end
checkpoints.py  the checkpoints of a run, as its ranks find and save them
weights.py      saved weights, as the process that starts a job looks at them
pooling.py      vectors of texts, from what a saved model makes of their words or tokens
saved.py        the config of a run, read back
examples/       what the stages share that count in examples
features/       what the stages share whose examples are rows of numbers
rollouts/       what the stages share in which a policy learns from its own answers
asking/         models, endpoints and rules that answer or judge, and what that costs
rewards/        how good an answer is, as a function tells
language/       what the stages share that work on text of the data service

A stage's folder has stage.py, its settings; driver.py, its part in the process that starts the
job; and what every rank calls, in a file of its own.
"""

from orchestrator.stages.stage import Outline, Ready, RoleOutline, Shown, Stage
from orchestrator.stages.table import STAGES

__all__ = ["STAGES", "Outline", "Ready", "RoleOutline", "Shown", "Stage"]
