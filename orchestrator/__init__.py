"""Orchestrate the training of language models: Hydra, Ray, DeepSpeed, MLflow."""

from orchestrator.packages import import_ours_first

import_ours_first()
