"""Orchestrate the training of language models: Hydra, Ray, DeepSpeed, MLflow."""

import time

from orchestrator.packages import import_ours_first

BEGUN = time.monotonic() - time.process_time()
"""When this program began, by `time.monotonic`, as near as it can tell: the time at this line less
the CPU time until here. Its process may be older: in `bash -c 'pip install ... && orchestrate run'`
the shell waits for pip, and then becomes this program. What loading the interpreter waited for a
cold disk is not counted."""

import_ours_first()
