"""`orchestrate data ACTION`: make, look at, check and trace the data of a job.

A job is named by a run folder, or by overrides as for `orchestrate run`; without either it is the
newest run in outputs/, else the job that `orchestrate run` alone would start.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.config import JobConfig

OVERRIDE = re.compile(r"^[+~]{0,2}[A-Za-z_][\w./@]*=")
LATEST = "outputs/latest"

Compose = Callable[[Sequence[str]], "JobConfig"]


def main(argv: Sequence[str], compose: Compose) -> int:
    """Carry out one action; returns the exit code. Raises ValueError for a wrong request."""
    overrides = [word for word in argv if OVERRIDE.match(word)]
    options = parser().parse_args([word for word in argv if not OVERRIDE.match(word)])
    if folder := getattr(options, "config_dir", None):
        if not overrides:
            raise ValueError(f"--config-dir={folder} needs an override that uses it: data=mine")
        overrides += ["--config-dir", folder]
    if options.action == "diff":
        from orchestrator.verbs.data.diff import diff

        return diff(options.a, options.b, options.json)
    from orchestrator.verbs.data import actions

    subject = find(options, overrides, compose)
    function: Callable[[Subject, argparse.Namespace], int] = getattr(actions, options.action)
    return function(subject, options)


def find(options: argparse.Namespace, overrides: Sequence[str], compose: Compose) -> "Subject":
    """The job that the command line means. Raises ValueError if there is none."""
    from orchestrator.stages.saved import load
    from orchestrator.verbs.data.subject import Subject

    named = getattr(options, "run", None)
    if named and overrides:
        raise ValueError(f"{named} and {overrides[0]}: name a run, or give overrides, not both")
    if not named and not overrides and Path(LATEST).exists():
        named = LATEST
    if not named:
        return Subject(_on_text(compose(overrides), "the job"), None)
    folder = Path(named)
    if not (folder / "config.yaml").is_file():
        raise ValueError(
            f"{named} is not a run folder: it has no config.yaml; `ls outputs` shows the runs "
            "there are, and overrides such as data=text data.path=FOLDER name data without a run"
        )
    return Subject(_on_text(load(folder / "config.yaml"), named), folder)


def _on_text(config: "JobConfig", name: str) -> "JobConfig":
    """The job, which must train on data of the data service. Raises ValueError if it does not."""
    from orchestrator.config import TrainingConfig
    from orchestrator.stages.language.preparing import text_of_weights
    from orchestrator.stages.rollouts.section import RolloutConfig

    if isinstance(config.stage, TrainingConfig) and "data" in config.stage.reads:
        if why := config.stage.unread(config).get("data"):
            raise ValueError(f"{name} learns no text of the section data: {why}")
        if isinstance(config.stage, RolloutConfig):
            return text_of_weights(config)
        return config
    raise ValueError(
        f"{name} is of stage={config.stage.name}, which does not train on text of the data "
        "service; name a run of stage=pretrain"
    )


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = new.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=summary, description=summary)

    def job(to: argparse.ArgumentParser) -> None:
        to.add_argument(
            "run", nargs="?", help=f"run folder, or overrides [{LATEST}, if there is one]"
        )
        to.add_argument("--config-dir", "-cd", metavar="FOLDER", help="of your own YAML: data=mine")

    prepare = action("prepare", "read, check, filter, tokenize and publish the data of a job")
    job(prepare)
    prepare.add_argument("--workers", type=int, metavar="N", help="processes [one per core]")
    inspect = action("inspect", "what is in it: counts, what was left out, examples, histograms")
    job(inspect)
    inspect.add_argument("--examples", type=int, default=3, help="documents shown [%(default)s]")
    inspect.add_argument(
        "--picture", default="data.png", help="file of the histograms [%(default)s]"
    )
    verify = action("verify", "read every byte of it and compare all hashes, and a run's ledger")
    job(verify)
    explain = action("explain", "which documents were in a step")
    explain.add_argument("what", help="optimizer step, from 1 on; or sample:N, one sequence whole")
    job(explain)
    explain.add_argument("--json", action="store_true", help="for programs")
    when = action("when", "every step at which a document was or will be seen")
    when.add_argument("document", help="its number, source (file or file:row), or start of hash")
    job(when)
    when.add_argument("--dataset", help="of a mixture [the only one]")
    when.add_argument("--json", action="store_true", help="for programs")
    diff = action("diff", "what differs between two data sets; exit code 1 if it does")
    diff.add_argument("a", help="run folder, shard set, or table (parquet, arrow, csv, jsonl)")
    diff.add_argument("b", help="the same kind of thing")
    diff.add_argument("--json", action="store_true", help="for programs")
    simulate = action("simulate", "block reads, cache and time of a job on N hosts")
    job(simulate)
    simulate.add_argument("--hosts", type=int, default=1, metavar="N", help="[%(default)s]")
    simulate.add_argument(
        "--steps", type=int, metavar="N", help="steps counted [the job's, 100 at most]"
    )
    simulate.add_argument(
        "--bandwidth", type=float, default=1000, metavar="MB/S", help="of a host [%(default)s]"
    )
    return new


if TYPE_CHECKING:
    from orchestrator.verbs.data.subject import Subject
