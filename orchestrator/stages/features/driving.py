"""A stage on examples in the process that starts the job: its arithmetic, examples and record."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.files import cache_root
from data.messages import counted, size
from models import cost
from models.configs import ByHandConfig, of_features
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.record.journal import Journal
from orchestrator.stages.features.resuming import start_position
from orchestrator.stages.features.section import FeaturesConfig
from orchestrator.stages.features.sources import make_inputs
from orchestrator.stages.features.splits import Inputs
from orchestrator.stages.features.tables import Examples
from orchestrator.stages.stage import Outline, Ready, RoleOutline, Say, Score, Shown, step_line

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

MOST_BYTES = 2**26  # of a table that is read for a plan


@dataclass(frozen=True)
class FeaturesDriver:
    """A stage's module for the process that starts the job, as an object; see Driver."""

    training: tuple[Shown, ...]
    evaluation: tuple[Shown, ...]
    score: Score
    classes: bool
    """Whether what is to be told is a class, rather than a number."""

    def outline(self, config: JobConfig) -> Outline:
        """The job from its settings alone, and where the model's own leave that to them, examples.

        Raises:
            ValueError: the model or the examples can't be used.
        """
        model = of_features(config.role("model").model)
        if model.inputs is None or model.outputs is None:
            return self._ready(config, None, None).outline
        return self._outline(config, f"{config.section(FeaturesConfig).data}, not read yet")

    def estimate(self, config: JobConfig, start: "Checkpoint | None") -> Outline:
        """The job with its examples, unless they are a large table; nothing is published."""
        model = of_features(config.role("model").model)
        path = Path(config.section(FeaturesConfig).data)
        known = model.inputs is not None and model.outputs is not None
        if known and path.is_file() and path.stat().st_size > MOST_BYTES:
            line = f"{path}, {size(path.stat().st_size)}, not read yet; --with-data reads it"
            return self._outline(config, line)
        return self._ready(config, start, None).outline

    def prepare(self, config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
        """Read, check and publish the examples; check that the job can go on from `start`."""
        return self._ready(config, start, cache_root())

    def _ready(self, config: JobConfig, start: "Checkpoint | None", cache: Path | None) -> Ready:
        stage = config.section(FeaturesConfig)
        inputs, examples = make_inputs(stage, config.seed, cache, classes=self.classes)
        role = role_for(config, inputs)
        if start is not None:
            start_position(start, config, role.model, inputs)
        name = stage.data if examples is None else examples.source
        line = f"{name}: {inputs.train:,} train and {inputs.validation:,} validation examples"
        if examples is not None and examples.left_out:
            line += f"; {counted(examples.left_out, 'row')} with missing values left out"
        return Ready(
            self._outline(config, line, role, inputs.train),
            inputs=inputs,
            record=partial(_record, examples=examples, inputs=inputs, stage=stage),
            files=inputs.files(cache_root()),
        )

    def _outline(
        self,
        config: JobConfig,
        data: str,
        role: RoleConfig | None = None,
        train: int | None = None,
    ) -> Outline:
        stage, batch = config.section(FeaturesConfig), config.batch
        role = role or config.role("model")
        parameters = cost.parameters(role.model)
        examples = batch.step * stage.steps
        flops = cost.flops_per_sample(role.model) * examples
        epochs = "" if train is None else f" = {examples / train:.3g} epochs"
        often = stage.evaluate_every
        evaluated = "once an epoch" if often is None else f"every {counted(often, 'step')}"
        by_hand = "numpy, fp32" if isinstance(role.model, ByHandConfig) else None
        lines = {
            "model": f"{role.model.family}, {counted(parameters, 'parameter')}",
            "data": data,
            "step": step_line(config, "example"),
            "job": f"{counted(stage.steps, 'step')} = {examples:,} examples{epochs}; evaluated "
            f"{evaluated}; {flops:.3g} floating-point operations",
        }
        return Outline(
            stage.steps,
            lines,
            {"model": RoleOutline(role, parameters, cost.largest_layer(role.model), by_hand)},
            self.training,
            self.evaluation,
            flops=flops,
            length=1,
            score=self.score,
        )


def role_for(config: JobConfig, inputs: Inputs) -> RoleConfig:
    """The role with as many inputs and outputs as the examples ask for, unless it says how many.

    Raises:
        ValueError: it says other numbers than would do.
    """
    role = config.role("model")
    model = of_features(role.model)
    found = len(inputs.standard.names)
    if model.inputs not in (None, found):
        raise ValueError(
            f"model.inputs={model.inputs}, but the examples have {counted(found, 'feature')}; "
            f"try model.inputs={found}, or null, which takes theirs"
        )
    least = inputs.outputs
    outputs = model.outputs or least
    if outputs < least:
        raise ValueError(
            f"the examples have labels up to {least - 1}, but model.outputs={outputs} allows 0 to "
            f"{outputs - 1}; try model.outputs={least}, or null, which takes theirs"
        )
    if inputs.classes is None and outputs > least:
        raise ValueError(
            f"model.outputs={outputs}, but the examples have one number to tell; try "
            "model.outputs=1, or null"
        )
    return replace(role, model=replace(model, inputs=found, outputs=outputs))


def _record(
    journal: Journal,
    folder: Path,
    *,
    examples: Examples | None,
    inputs: Inputs,
    stage: FeaturesConfig,
) -> None:
    """An event for each split, which leads from the run to its data."""
    told = "double" if inputs.classes is None else "long"
    columns = dict.fromkeys(inputs.standard.names, "double") | {stage.label or "label": told}
    path = None if examples is None else examples.path
    folders = dict(zip(("folder",), map(str, inputs.files(cache_root())), strict=False))
    for split, count in (("train", inputs.train), ("validation", inputs.validation)):
        journal.event(
            "dataset",
            name=stage.data if path is None or stage.is_named else path.stem,
            source=str(path or stage.data),
            split=split,
            mixture=False,
            fingerprint=inputs.fingerprint,
            examples=count,
            columns=columns,
            **folders,
        )
