"""Classification in the process that starts the job: its arithmetic, its examples, its record."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.files import cache_root
from data.messages import counted, size
from models import cost
from models.configs import classifier
from orchestrator.config import JobConfig
from orchestrator.record.journal import Journal
from orchestrator.stages.classify.examples import PublishedExamples, publish_examples
from orchestrator.stages.classify.resuming import start_position
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.stages.classify.tables import Examples, read_examples
from orchestrator.stages.stage import Outline, Ready, RoleOutline, Say, Score, Shown, step_line

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

MOST_BYTES = 2**26  # of a table that is read for a plan
TRAINING = (
    Shown("train/loss", "train loss {:.3f}"),
    Shown("train/accuracy", "train accuracy {:.1%}"),
)
EVALUATION = (
    Shown("validation/accuracy", "validation accuracy {:.1%}"),
    Shown("validation/loss", "validation loss {:.3f}"),
)


def outline(config: JobConfig) -> Outline:
    """The job from its settings alone."""
    source = config.section(ClassifyConfig).data or "scikit-learn's digits"
    return _outline(config, f"{source}, not read yet")


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The job with its examples, unless they are a large table; nothing is published."""
    table = config.section(ClassifyConfig).data
    if table is not None and (path := Path(table)).is_file() and path.stat().st_size > MOST_BYTES:
        line = f"{table}, {size(path.stat().st_size)}, not read yet; --with-data reads it"
        return _outline(config, line)
    return _ready(config, start, None).outline


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Read, check and publish the examples; check that the job can go on from `start`."""
    return _ready(config, start, cache_root())


def _ready(config: JobConfig, start: "Checkpoint | None", cache: Path | None) -> Ready:
    stage = config.section(ClassifyConfig)
    examples = read_examples(stage, classifier(config.role("model").model))
    published = publish_examples(examples, stage.validation_fraction, config.seed, cache)
    if start is not None:
        start_position(start, config, published)
    data = f"{examples.source}: {published.train:,} train and {published.validation:,} "
    return Ready(
        _outline(config, f"{data}validation examples", published.train),
        inputs=published,
        record=partial(
            _record, examples=examples, published=published, label=stage.label or "label"
        ),
        files=(published.folder(cache_root()),),
    )


def _outline(config: JobConfig, data: str, train: int | None = None) -> Outline:
    stage, batch, role = config.section(ClassifyConfig), config.batch, config.role("model")
    parameters = cost.parameters(role.model)
    examples = batch.step * stage.steps
    flops = cost.flops_per_sample(role.model) * examples
    epochs = "" if train is None else f" = {examples / train:.3g} epochs"
    often = stage.evaluate_every
    evaluated = "once an epoch" if often is None else f"every {counted(often, 'step')}"
    lines = {
        "model": f"{role.model.family}, {parameters:,} parameters",
        "data": data,
        "step": step_line(config, "example"),
        "job": f"{counted(stage.steps, 'step')} = {examples:,} examples{epochs}; evaluated "
        f"{evaluated}; {flops:.3g} floating-point operations",
    }
    return Outline(
        stage.steps,
        lines,
        {"model": RoleOutline(role, parameters, cost.largest_layer(role.model))},
        TRAINING,
        EVALUATION,
        flops=flops,
        score=Score("validation/accuracy", lower_is_better=False),
    )


def _record(
    journal: Journal,
    folder: Path,
    *,
    examples: Examples,
    published: PublishedExamples,
    label: str,
) -> None:
    """An event for each split, which leads from the run to its data."""
    columns = dict.fromkeys(examples.names, "double") | {label: "long"}
    for split, count in (("train", published.train), ("validation", published.validation)):
        journal.event(
            "dataset",
            name="digits" if examples.path is None else examples.path.stem,
            source=str(examples.path or "sklearn.datasets.load_digits"),
            split=split,
            mixture=False,
            folder=str(published.folder(cache_root())),
            fingerprint=published.fingerprint,
            examples=count,
            columns=columns,
        )
