"""What a stage on examples tells of a job before it starts, and puts on record of them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.files import cache_root
from data.messages import counted
from models import cost
from orchestrator.config import JobConfig, RoleConfig, TrainingConfig
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.record.journal import Journal
from orchestrator.stages.examples.published import Published
from orchestrator.stages.examples.resuming import start_position
from orchestrator.stages.stage import Outline, Ready, RoleOutline, Score, Shown, Work, step_line

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint


def outline_of(
    config: JobConfig,
    role: RoleConfig,
    data: str,
    *,
    example: str,
    published: Published | None,
    each: int | None,
    training: tuple[Shown, ...],
    evaluation: tuple[Shown, ...],
    score: Score,
    work: Work | None = None,
    length: float | None = None,
    longest: int | None = None,
) -> Outline:
    """The plan of a job whose steps count in examples.

    Args:
        config: of the job.
        role: its model, with everything filled in that is known.
        data: the examples in a few words.
        example: what one is called.
        published: the examples. None: they are not made yet.
        each: tokens, or the like, of one as `cost.flops_per_sample` takes them. None: not known.
        training: shown of each step.
        evaluation: shown of each evaluation.
        score: by which runs are ranked.
        work: what a step asks of the model. None: to learn from each example once.
        length: tokens of a row, see `Outline`. None: `each`.
        longest: most tokens of a row. None: not known.
    """
    steps = config.section(TrainingConfig).steps
    seen = config.batch.step * steps
    told = RoleOutline.of(role, work)
    flops = None if each is None else cost.flops_per_sample(role.model, each) * seen
    epochs = "" if published is None else f" = {seen / published.train:.3g} epochs"
    operations = "" if flops is None else f"; {flops:.3g} floating-point operations"
    lines = {
        "model": told.line,
        "data": data,
        "step": step_line(config, example),
        "job": f"{counted(steps, 'step')} = {seen:,} {example}s{epochs}{operations}",
    }
    return Outline(
        steps,
        lines,
        {"model": told},
        training,
        evaluation,
        flops=flops,
        length=each if length is None else length,
        longest=longest,
        score=score,
    )


def ready_of(
    config: JobConfig,
    start: "Checkpoint | None",
    outline: Outline,
    published: Published,
    *,
    same: str,
    name: str,
    source: str,
    columns: Mapping[str, str],
) -> Ready:
    """What a stage on published examples has made for its ranks.

    Args:
        config: of the job.
        start: the checkpoint that it goes on from.
        outline: of the job, with what the examples add.
        published: the examples.
        same: the settings that they follow from, as a message names them.
        name: of the dataset.
        source: where it comes from: a path, or a name.
        columns: type of each.

    Raises:
        ValueError: the job can't go on from `start`.
    """
    if start is not None:
        model = outline.roles["model"].config.model
        start_position(start, config, model, published.fingerprint, same)
    return Ready(
        outline,
        inputs=published,
        record=partial(record_of, published=published, name=name, source=source, columns=columns),
        files=(published.folder(cache_root()),),
    )


def record_of(
    journal: Journal,
    folder: Path,
    *,
    published: Published,
    name: str,
    source: str,
    columns: Mapping[str, str],
) -> None:
    """Put events into the journal that lead from a run to its examples, and their tokenizer.

    Args:
        journal: of the run.
        folder: of the run; gets the tokenizer, if the examples are of tokens.
        published: the examples.
        name: of the dataset.
        source: where it comes from: a path, or a name.
        columns: type of each.
    """
    own = published.folder(cache_root())
    for split in ("train", "validation"):
        journal.event(
            "dataset",
            name=name,
            source=source,
            split=split,
            mixture=False,
            folder=str(own),
            fingerprint=published.fingerprint,
            examples=getattr(published, split),
            columns=dict(columns),
        )
    if (own / TOKENIZER).exists():
        text = (own / TOKENIZER).read_text(encoding="utf-8")
        (folder / TOKENIZER).write_text(text, encoding="utf-8")
        journal.event("artifact", path=TOKENIZER)
