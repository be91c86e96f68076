"""`orchestrate audit stage=grpo ...`: check what a policy learns from before a long run of it."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from data.files import cache_root
from data.messages import counted
from orchestrator.config import EngineConfig, JobConfig
from orchestrator.plan.planning import make_plan
from orchestrator.stages.rollouts.section import RolloutConfig
from orchestrator.terminal import say


def main(config: JobConfig, overrides: Sequence[str], asked: float) -> int:
    """Print a line for each check; returns 1 if one failed.

    One step's answers are drawn in this process by plain PyTorch; nothing is trained or kept.

    Raises:
        ValueError: the job can't work, or has no policy that learns from its own answers.
    """
    if not isinstance(config.stage, RolloutConfig):
        raise ValueError(
            f"stage={config.stage.name} learns from data; `audit` is for a policy that learns from "
            "its own answers, such as stage=grpo"
        )
    plan = make_plan(_here(config), say)
    assert plan.ready is not None
    import torch

    from orchestrator.stages.run import Run

    module, _, name = config.stage.audited.partition(":")
    audit = getattr(importlib.import_module(module), name)
    passed = failed = 0
    with TemporaryDirectory() as folder:
        run = Run(Path(folder), torch.device("cpu"), lambda _: None, lambda: False, cache_root())
        for found in audit(plan.config, plan.ready.inputs, run):
            say(f"{'pass' if found.passed else 'FAIL'}  {found.name}: {found.detail}", hang=6)
            passed, failed = passed + found.passed, failed + (not found.passed)
    say(f"{counted(passed + failed, 'check')}: {passed} passed, {failed} failed")
    return 1 if failed else 0


def _here(config: JobConfig) -> JobConfig:
    """The job in one process of this machine, whatever it is to run on."""
    plain = EngineConfig(name="torch", zero_stage=None, precision=config.engine.precision)
    roles = {name: replace(own, engine={}) for name, own in config.roles.items()}
    resources = replace(config.resources, workers=1, launcher="inline", gpus_per_worker=0)
    return replace(config, engine=plain, roles=roles, resources=resources)
