"""What a stage that asks tells before it starts, and how each rank gets to who is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data import Tokenizer
from data.chat import ChatTemplate, template_of
from data.messages import short
from models import cost
from models.configs import LanguageModelConfig
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.stages.asking.section import AskedConfig
from orchestrator.stages.stage import RoleOutline
from orchestrator.stages.weights import verified_weights

if TYPE_CHECKING:
    from orchestrator.stages.asking.endpoint import Endpoint
    from orchestrator.stages.asking.local import LocalModel, RewardModel
    from orchestrator.stages.run import Run


@dataclass(frozen=True)
class Found:
    """One that is asked, as the process that starts the job has found it."""

    name: str
    """Of its section of the stage, which is that of its role, too."""
    config: AskedConfig
    role: RoleConfig | None = None
    """Of a model here: with its architecture and the verified folder of its weights."""
    tokenizer: Path | None = None
    manifest_sha256: str | None = None

    @property
    def where(self) -> str:
        """The section, for messages."""
        return f"stage.{self.name}"

    @property
    def tells_rewards(self) -> bool:
        """Whether it is a model of this machine that was trained to tell what answers are worth."""
        return self.role is not None and bool(getattr(self.role.model, "value_head", False))

    @property
    def outlines(self) -> dict[str, RoleOutline]:
        """The model of this machine, if it is one."""
        return {} if self.role is None else {self.name: RoleOutline.of(self.role)}

    @property
    def line(self) -> str:
        """Who it is, in a line of a plan."""
        if self.role is None:
            return self.config.name
        model = self.role.model
        weights = short(Path(str(model.weights)))
        return f"{model.family}, {cost.parameters(model):,} parameters, from {weights}"

    def chat(self) -> ChatTemplate:
        """How a model here is spoken to."""
        assert self.tokenizer is not None  # `find` checks it
        source, place = template_of(self.config.chat_template, f"{self.where}.chat_template")
        return ChatTemplate(source, Tokenizer.load(self.tokenizer), place)


def find(config: JobConfig, name: str, asked: AskedConfig, *, compares: bool = False) -> Found:
    """One that is asked by the section `name` of the stage.

    Args:
        config: of the job.
        name: of the section.
        asked: its settings.
        compares: whether answers are only compared, which a reward model can do, too.

    Raises:
        ValueError: its weights are missing, or of no model that can be asked; a key is not set.
    """
    where = f"stage.{name}"
    if not asked.local:
        asked.key(where)
        return Found(name, asked)
    weights = verified_weights(str(asked.model), None, f"{where}.model")
    model = weights.model_config
    rewards = compares and getattr(model, "value_head", False)
    if not (
        isinstance(model, LanguageModelConfig)
        and (model.writes or rewards)
        and weights.tokenizer is not None
    ):
        also = ", or of stage=reward" if compares else ""
        raise ValueError(
            f"{where}.model={asked.model} holds no model that writes text; give a run of "
            f"stage=sft{also}, or a model of Hugging Face that chats"
        )
    own = replace(model, weights=str(weights.path), weights_role=weights.role)
    role = replace(config.role(name), model=own)
    return Found(name, asked, role, weights.tokenizer, weights.manifest_sha256)


def reached(found: Found, config: JobConfig, run: Run) -> LocalModel | RewardModel | Endpoint:
    """The one that is asked, for this rank. Every rank calls it."""
    if found.role is None:
        from orchestrator.stages.asking.endpoint import Endpoint

        return Endpoint(found.config, found.where)
    from orchestrator.stages.asking.local import LocalModel, RewardModel
    from orchestrator.training.roles import build_role

    engine = build_role(found.name, found.role, device=run.device, seed=config.seed).engine
    who = f"{found.manifest_sha256} {found.role.engine.precision}"
    asked = found.config
    if found.tells_rewards:
        return RewardModel(engine, found.chat(), who, batch_size=asked.batch_size)
    mass = asked.least_mass
    return LocalModel(engine, found.chat(), who, batch_size=asked.batch_size, least_mass=mass)
