"""What every rank does: answers are written and revised, and become rows for sft and dpo."""

from functools import partial

from orchestrator.config import JobConfig
from orchestrator.stages.asking.answers import Stopped, ask_all, write_rows
from orchestrator.stages.asking.comparing import compare
from orchestrator.stages.asking.driving import reached
from orchestrator.stages.asking.items import Item
from orchestrator.stages.asking.leaving_out import fewer
from orchestrator.stages.asking.spending import Spent, metrics
from orchestrator.stages.asking.verdicts import Verdict
from orchestrator.stages.constitution import outcome
from orchestrator.stages.constitution.driver import Inputs
from orchestrator.stages.constitution.revising import Revised, criterion, revised
from orchestrator.stages.constitution.stage import ConstitutionConfig
from orchestrator.stages.result import Result
from orchestrator.stages.run import Run
from orchestrator.training import distributed

ANSWERS, PAIRS, RECORD = "sft.jsonl", "preferences.jsonl", "revisions.jsonl"


def revise(config: JobConfig, inputs: Inputs, run: Run) -> Result:
    """Write, criticise and revise answers, and say what that changed. Every rank calls it."""
    stage, spent, judging = config.section(ConstitutionConfig), Spent(), Spent()
    try:
        writer = reached(inputs.writer, config, run)
        run.event("training", device=str(run.device), from_step=0)
        ask = partial(ask_all, writer, run=run, spent=spent)
        found = revised(inputs.prompts, inputs.principles, stage, ask, config.seed)
        said = _judged(found, inputs, config, run, judging)
    except Stopped as stopped:
        return Result(stopped=True, reason=str(stopped))
    told = outcome.measure(found, inputs.principles, said, config.seed)
    figures = told.metrics | metrics(stage.writer, spent)
    if inputs.judge is not None:
        figures |= {f"judge_{name}": own for name, own in metrics(stage.judge, judging).items()}
    run.log(0, {f"constitution/{name}": value for name, value in figures.items()})
    answers, pairs = outcome.answers(found, inputs.principles), outcome.pairs(found, said)
    files = {ANSWERS: answers, PAIRS: pairs, RECORD: [outcome.row(own) for own in found]}
    for name, rows in files.items():
        if distributed.rank() == 0:
            write_rows(run.folder / name, rows)
        run.event("artifact", path=name)
    why = "are empty, or still fall short of a principle"
    left = fewer(ANSWERS, len(answers), len(found), "answers", why)
    learn = "orchestrate run stage={} stage.data={{run}}/{} model.weights=RUN"
    following = {"sft": (ANSWERS, answers), "dpo": (PAIRS, pairs)}
    return Result(
        notices=(*spent.notices(), *judging.notices(), *left),
        samples=outcome.samples(found),
        tables=(told.table(spent, judging, stage),),
        next=tuple(
            (f"stage={name}", learn.format(name, file))
            for name, (file, rows) in following.items()
            if rows
        ),
    )


def _judged(
    found: list[Revised], inputs: Inputs, config: JobConfig, run: Run, spent: Spent
) -> dict[int, Verdict]:
    """What a judge says of each answer that was changed, by its place: 1 for the revision."""
    changed = {place: own for place, own in enumerate(found) if own.changed}
    if inputs.judge is None or not changed:
        return {}
    items = [Item(own.prompt.text, own.answer, own.first) for own in changed.values()]
    said = compare(items, inputs.judge, criterion(inputs.principles), config, run, spent)
    return dict(zip(changed, said, strict=True))
