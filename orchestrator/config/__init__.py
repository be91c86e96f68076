"""What a job is: JobConfig, and one file per section with types, units and every check.

YAML files under conf/ hold only what a choice changes; the defaults and the meaning of each
setting are here. `__post_init__` of a section is the one home of its checks, and
`JobConfig.__post_init__` of those across sections. A wrong value is a ValueError that names the
setting, its value, what it must satisfy, and what to type instead. Nothing here imports torch.
"""

from orchestrator.config.changes import Change, kind_of, other_architecture
from orchestrator.config.checks import check_at_least, check_choice, nearest_multiples
from orchestrator.config.engine import EngineConfig
from orchestrator.config.job import BY_STAGE, SECTIONS, JobConfig, to_dict
from orchestrator.config.optim import OptimConfig
from orchestrator.config.recovery import BUDGETS, RecoveryConfig
from orchestrator.config.resources import ResourcesConfig
from orchestrator.config.roles import RoleConfig, RoleSettings
from orchestrator.config.stage import BatchSizes, StageConfig, TrainingConfig
from orchestrator.config.tracking import TrackingConfig

__all__ = [
    "BUDGETS",
    "BY_STAGE",
    "SECTIONS",
    "BatchSizes",
    "Change",
    "EngineConfig",
    "JobConfig",
    "OptimConfig",
    "RecoveryConfig",
    "ResourcesConfig",
    "RoleConfig",
    "RoleSettings",
    "StageConfig",
    "TrackingConfig",
    "TrainingConfig",
    "check_at_least",
    "check_choice",
    "kind_of",
    "nearest_multiples",
    "other_architecture",
    "to_dict",
]
