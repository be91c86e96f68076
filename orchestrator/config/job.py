"""JobConfig: the sections of a job together, its roles, and the checks across sections."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

from data.config import DataConfig
from data.files import expand_home
from data.tokenizer import TokenizerConfig
from models.configs import ModelConfig
from orchestrator.config.engine import EngineConfig
from orchestrator.config.optim import OptimConfig
from orchestrator.config.recovery import RecoveryConfig
from orchestrator.config.resources import ResourcesConfig
from orchestrator.config.roles import RoleConfig, RoleSettings, merged
from orchestrator.config.stage import BatchSizes, StageConfig
from orchestrator.config.tracking import TrackingConfig

Section = TypeVar("Section", bound=StageConfig)


@dataclass
class JobConfig:
    """One job: a stage and all it needs. The whole of config.yaml in a run folder."""

    stage: StageConfig = field(default_factory=StageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    seed: int = 0
    """Of initial weights, dropout and sample order; 0 to 2^63 - 1."""
    outputs: str = "outputs"
    """Folder that holds the run folders."""
    resume: str | None = None
    """Run folder or checkpoint, or URL of one, to continue from, with its config, optimizer and
    position; what is typed besides goes on top. auto: the newest run of this very job that is not
    done, if any, in outputs or else in stage.checkpoints_to. None: from step 0."""
    allow_changes: list[str] = field(default_factory=list)
    """Settings, such as optim.learning_rate, that may differ from those of the run to resume
    though steps compute something else with them."""
    checkpoint: str | None = None
    """Run folder, checkpoint, URL of either, or exported folder that a stage without training
    works on."""
    roles: dict[str, RoleSettings] = field(default_factory=dict)
    """What single models of a stage with several have of their own, by role."""

    def __post_init__(self) -> None:
        """Check the seed, and what concerns more than one section."""
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must lie in 0..2^63-1; try seed=0")
        if self.allow_changes and self.resume is None:
            raise ValueError(
                f"allow_changes={self.allow_changes} is for a run that is resumed; add resume=RUN, "
                "or leave it out"
            )
        self._expand_home()
        self._check_roles()
        self.stage.check_job(self)

    @property
    def batch(self) -> BatchSizes:
        """How an optimizer step is cut over the workers."""
        return self.stage.batch(self.workers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of workers that the job may have, the largest first."""
        resources = self.resources
        asked = range(resources.most, resources.least - 1, -1)
        return tuple(size for size in asked if self.stage.allows(size)) or (resources.most,)

    @property
    def workers(self) -> int:
        """Ranks of the job; of a job that may have several numbers of them, the most."""
        return self.sizes[0]

    def on(self, workers: int) -> JobConfig:
        """The same job on so many workers; what a rank computes at a time does not grow."""
        return replace(
            self,
            resources=replace(self.resources, workers=workers),
            stage=self.stage.cut_for(workers, self.batch.micro) if self.sizes[1:] else self.stage,
        )

    @property
    def role_names(self) -> tuple[str, ...]:
        """Names of the models of this job; see `StageConfig.roles` and `optional`."""
        stage = self.stage
        return tuple(n for n in stage.roles if n not in stage.optional or n in self.roles)

    def role(self, name: str) -> RoleConfig:
        """The model of this name: the job's sections, with what `roles` says of it."""
        own = self.roles.get(name, RoleSettings())
        where = f"roles.{name}"
        optim = merged(f"{where}.optim", self.optim, own.optim)
        return RoleConfig(
            merged(f"{where}.model", self.model, own.model),
            merged(f"{where}.engine", self.engine, own.engine),
            None if name in self.stage.frozen else optim,
        )

    def unread(self) -> dict[str, str]:
        """Settings that change nothing in this job, by their full names, and what they are for.

        A default among them is harmless; one that was asked for is refused (compose).
        """
        found = self.stage.unread(self)
        for name in ("data", "resources", "tracking", "recovery"):
            if name not in BY_STAGE or name in self.stage.reads:
                own = getattr(self, name).unread()
                found |= {f"{name}.{setting}": why for setting, why in own.items()}
        if self.resources.launcher == "inline":
            why = "resources.launcher=inline restarts nothing; try resources=auto"
            found |= {f"recovery.{own.name}": why for own in fields(RecoveryConfig)}
        roles = {name: self.role(name).unread() for name in self.role_names}
        for name, own in roles.items():
            found |= {f"roles.{name}.{setting}": why for setting, why in own.items()}
        for own in roles.values():
            found |= {name: why for name, why in own.items() if self._unread_by_all(name, roles)}
        return found

    def _unread_by_all(self, name: str, roles: dict[str, dict[str, str]]) -> bool:
        """Whether a setting changes nothing in any role; a frozen one has no optimizer."""
        frozen = self.stage.frozen if name.startswith("optim.") else ()
        return all(name in own for role, own in roles.items() if role not in frozen)

    def _expand_home(self) -> None:
        """Fill in `~` where a setting is a path: it stands for itself nowhere else."""
        for name in ("outputs", "resume", "checkpoint"):
            setattr(self, name, expand_home(name, getattr(self, name)))
        self.model.weights = expand_home("model.weights", self.model.weights)
        for name, role in self.roles.items():
            if "weights" in role.model:
                where = f"roles.{name}.model.weights"
                role.model["weights"] = expand_home(where, role.model["weights"])

    def _check_roles(self) -> None:
        for name in self.roles:
            if name not in self.stage.roles:
                has = ", ".join(self.stage.roles) or "none"
                raise ValueError(
                    f"roles.{name}: stage={self.stage.name} has no role of that name; it has {has}"
                )
        workers = self.resources.most
        for role in map(self.role, self.role_names):
            role.check_recomputation()
            if role.optim is not None and role.engine.name == "torch" and workers > 1:
                asked = f"resources.workers={self.resources.text}"
                raise ValueError(
                    f"engine=torch trains in one process, but {asked}; "
                    "try resources.workers=1 or engine=zero0"
                )

    def section(self, kind: type[Section]) -> Section:
        """The stage's section as what a job of that stage holds."""
        assert isinstance(self.stage, kind)
        return self.stage


def to_dict(config: JobConfig) -> dict[str, Any]:
    """What the job reads of its config, as plain data for config.yaml.

    The defaults of a section that its stage never looks at would say of a run what is not so.
    """
    plain = asdict(config)
    return {n: value for n, value in plain.items() if n not in BY_STAGE or n in config.stage.reads}


BY_STAGE = (
    *("model", "data", "tokenizer", "optim", "engine", "roles"),
    *("resume", "allow_changes", "checkpoint"),
)
"""Sections and settings that some stages read and others do not."""


SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "tokenizer": TokenizerConfig,
    "optim": OptimConfig,
    "engine": EngineConfig,
    "resources": ResourcesConfig,
    "tracking": TrackingConfig,
    "recovery": RecoveryConfig,
}
