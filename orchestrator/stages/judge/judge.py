"""What every rank of a judge does: it asks about each pair twice, and writes down what was said."""

from orchestrator.config import JobConfig
from orchestrator.stages.asking.answers import Stopped, write_rows
from orchestrator.stages.asking.comparing import compare
from orchestrator.stages.asking.items import exported
from orchestrator.stages.asking.leaving_out import fewer
from orchestrator.stages.asking.spending import Spent, metrics, told
from orchestrator.stages.judge import outcome
from orchestrator.stages.judge.driver import Inputs
from orchestrator.stages.judge.stage import JudgingConfig
from orchestrator.stages.result import Result
from orchestrator.stages.reward.scoring import save_picture
from orchestrator.stages.run import Run
from orchestrator.training import distributed

PAIRS, VERDICTS, PICTURE = "preferences.jsonl", "verdicts.jsonl", "figures/calibration.png"


def judge(config: JobConfig, inputs: Inputs, run: Run) -> Result:
    """Compare the answers of every pair, and say what that is worth. Every rank calls it."""
    stage, spent = config.section(JudgingConfig), Spent()
    try:
        found = compare(
            inputs.items, inputs.judge, stage.criterion, config, run, spent,
            lambda: run.event("training", device=str(run.device), from_step=0),
        )  # fmt: skip
    except Stopped as stopped:
        return Result(stopped=True, reason=str(stopped))
    measured = outcome.measure(found, inputs.people)
    run.log(
        0, {f"judge/{k}": v for k, v in (measured.metrics | metrics(stage.judge, spent)).items()}
    )
    kept = [(one.item, [one.value]) for one in found if one.value is not None and not one.known]
    rows = list(exported(kept))
    if distributed.rank() == 0:
        write_rows(run.folder / PAIRS, rows)
        write_rows(run.folder / VERDICTS, (one.row() for one in found))
    for name in (PAIRS, VERDICTS):
        run.event("artifact", path=name)
    if len(measured.margins) and run.pictures:
        if distributed.rank() == 0:
            (run.folder / PICTURE).parent.mkdir(exist_ok=True)
            save_picture(measured.margins, run.folder / PICTURE, "pairs with a known better answer")
        run.event("artifact", path=PICTURE)
    left = fewer(PAIRS, len(rows), len(kept), "pairs", "have no better answer")
    learn = f"orchestrate run stage=dpo stage.data={{run}}/{PAIRS} model.weights=RUN"
    took = told(stage.judge, spent, len(found))
    return Result(
        notices=(*spent.notices(), *left),
        tables=(measured.table(took), *outcome.disagreements(found)),
        next=(("learn it", learn),) if rows else (),
    )
