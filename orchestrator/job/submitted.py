"""The driver of a job of the queue: `python -m orchestrator.job.submitted FOLDER`.

FOLDER is the job's own, below that of the queue. Its details.json has the config, checked when it
was submitted, what was typed, and the folder that it was typed in; `run` becomes a link to the run
folder. An attempt that finds the run of an earlier one, and a checkpoint in it, goes on from there.
A trial of a sweep has its place in the details, and its record is sent by the sweep.
The code is what travelled with the job.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.nodes import Devices
from data.files import read_json, write_text_atomic
from data.messages import counted
from orchestrator import BEGUN
from orchestrator.config import JobConfig
from orchestrator.job.codes import FAILED, REFUSED
from orchestrator.job.execute import Place, execute
from orchestrator.job.failures import explain_failure
from orchestrator.plan.devices import tell
from orchestrator.record.checkpoints import FOLDER as CHECKPOINTS
from orchestrator.record.checkpoints.finding import published
from orchestrator.record.redaction import Redactor
from orchestrator.record.runfolder import new_folder
from orchestrator.stages import saved
from orchestrator.terminal import prepare_streams, say

DETAILS, CONFIG, RUN = "details.json", "config.yaml", "run"
OF_RAY = "RAY_JOB_CONFIG_JSON_ENV_VAR"
MODULE = "orchestrator.job.submitted"


def main(arguments: Sequence[str]) -> int:
    """Carry the job out; returns the exit code, as `orchestrate run` does."""
    prepare_streams()
    folder = Path(arguments[0])
    # Ray would start a worker of its own kind for these settings, where others wait already.
    os.environ.pop(OF_RAY, None)
    try:
        details = read_json(folder / DETAILS)
        os.chdir(details["cwd"])
        words = [str(word) for word in details["overrides"]]
        # What was typed, for the record.
        sys.argv = ["orchestrate", *details.get("command", ["run", *words])]
        config = _goes_on(folder, _config(folder, details))
        place = _place(details, config)
        return execute(config, words, BEGUN, lambda run: _point(folder / RUN, run), place)
    except ValueError as error:
        say(f"error: {Redactor({}).known(str(error))}", sys.stderr)
        return REFUSED
    except Exception as error:
        say(f"error: {explain_failure(error, resumable=False).line()}", sys.stderr)
        return FAILED


def _config(folder: Path, details: dict[str, Any]) -> JobConfig:
    """The job, on the cluster that has started this driver: it may have come up anew since."""
    write_text_atomic(folder / CONFIG, details["config"], mode=0o600)
    config = saved.load(folder / CONFIG)
    here = os.environ.get("RAY_ADDRESS")
    if here and config.resources.address is not None:
        tell(here, devices_of(here, details["nodes"]))  # what Ray would tell after seconds
        return replace(config, resources=replace(config.resources, address=here))
    return config


def _place(details: dict[str, Any], config: JobConfig) -> Place | None:
    """Of a trial: where the sweep looks for it, or beside that if an earlier attempt was there."""
    if "sweep" not in details:
        return None
    folder = Path(details["folder"])
    if folder.exists():
        folder = new_folder(Path(config.outputs).absolute(), config.stage.name)
    return Place(folder, details["sweep"])


def devices_of(address: str, nodes: Sequence[Sequence[int]]) -> Devices:
    """What a cluster has, by the GPUs and CPUs of each of its nodes."""
    return Devices(
        sum(gpus for gpus, _ in nodes),
        sum(cpus for _, cpus in nodes),
        f"the cluster at {address}, {counted(len(nodes), 'node')}",
        nodes=tuple((gpus, cpus) for gpus, cpus in nodes),
    )


def _goes_on(folder: Path, config: JobConfig) -> JobConfig:
    """The job, from the newest checkpoint of its earlier attempts on, if they have left one."""
    run = (folder / RUN).resolve()
    if not any(published(run / CHECKPOINTS)):
        return config
    say(f"goes on with the run of the attempt before: {run}")
    return replace(config, resume=str(run), allow_changes=[])


def _point(link: Path, run: Path) -> None:
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.symlink_to(run.absolute())
    partial.replace(link)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
