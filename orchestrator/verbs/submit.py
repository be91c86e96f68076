"""`orchestrate submit [OVERRIDES]`: a job for the queue of the cluster; this returns at once.

1. The job is composed and checked here as `run` does it; what can't work is refused, with exit 2.
2. Its config travels with it, and the code that is here: commit, changes and new files.
3. The queue takes it, under your name; its driver starts on the cluster when there is room.
"""

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Any

import yaml

from cluster.queue.client import Client, connect
from cluster.queue.job import Bundle
from cluster.queue.parcel import Parcel, pack
from data.messages import listed
from orchestrator.config import JobConfig, to_dict
from orchestrator.job.submitted import MODULE, devices_of
from orchestrator.plan.devices import placement_of, tell
from orchestrator.plan.planning import Plan, check
from orchestrator.record.code import SOURCE, carried
from orchestrator.record.redaction import Redactor
from orchestrator.terminal import say

# Of whoever submits; what is secret stays here, and is that of whoever typed `up`.
CARRIED = (
    *("ORCHESTRATE_CACHE", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "OMP_NUM_THREADS"),
    *("HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
)

PROJECT = "default"
PROCESS_BYTES = 2**29  # of a worker that has imported all it needs, before there is a model

Compose = Callable[[Sequence[str]], JobConfig]


def main(argv: Sequence[str], compose: Compose) -> int:
    """Hand the job in; returns the exit code. Raises ValueError if it, or the queue, refuses."""
    options = parser().parse_args(argv)
    minutes = options.limit_minutes
    if minutes is not None and not 0 < minutes < inf:
        raise ValueError(f"--limit-minutes={minutes} must be above 0; try --limit-minutes=60")
    client = connect()
    told = client.status()
    os.environ["RAY_ADDRESS"] = address = told["ray"]["address"]
    tell(address, devices_of(address, nodes_of(told)))
    return hand_in(client, told, compose(options.overrides), options.overrides, options)


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("overrides", nargs="*", help="as of `orchestrate run`")
    new.add_argument("--name", default="", help="for people")
    new.add_argument("--project", default=PROJECT, help="for quotas [%(default)s]")
    new.add_argument("--priority", type=int, default=0, help="higher goes first [%(default)s]")
    new.add_argument("--after", action="append", default=[], metavar="ID", help="a job to wait for")
    new.add_argument("--limit-minutes", type=float, help="stop it, with a checkpoint, after these")
    return new


def detached(config: JobConfig, overrides: Sequence[str]) -> int:
    """`run --detach`: the job goes to the cluster of this machine; returns the exit code."""
    client = connect()
    told = client.status()
    address = told["ray"]["address"]
    tell(address, devices_of(address, nodes_of(told)))
    if config.resources.address is None and config.resources.launcher == "ray":
        config = replace(config, resources=replace(config.resources, address=address))
    return hand_in(client, told, config, overrides, parser().parse_args([]))


def hand_in(
    client: Client,
    told: dict[str, Any],
    config: JobConfig,
    overrides: Sequence[str],
    options: argparse.Namespace,
) -> int:
    """Check the job and hand it in; `told` is the status of the cluster."""
    asked = {
        "id": f"{config.stage.name}-{secrets.token_hex(3)}",
        "name": options.name,
        "project": options.project,
        "priority": options.priority,
        "after": options.after,
        "limit_s": None if options.limit_minutes is None else 60 * options.limit_minutes,
    }
    taken = request(client, told, config, overrides, code_of(config), asked, {}, say)
    name = taken["id"]
    say(f"{name} is {taken['state']}; needs {taken['asked']}")
    say(f"watch:  orchestrate logs {name} -f")
    say(f"status: orchestrate status {name}")
    say(f"stop:   orchestrate stop {name}")
    return 0


def code_of(config: JobConfig) -> Parcel:
    """The code that is here, without what keeps secrets, which is told."""
    files, left = carried(SOURCE, Redactor(to_dict(config)))
    if left:
        say(f"left behind, for they keep secrets by their names: {listed(left)}", sys.stderr)
    return pack(files)


def request(
    client: Client,
    told: dict[str, Any],
    config: JobConfig,
    overrides: Sequence[str],
    code: Parcel,
    asked: Mapping[str, Any],
    details: Mapping[str, Any],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Check a job and hand it in with its code; returns what the queue says of it.

    Args:
        client: of the queue.
        told: the status of its cluster.
        config: of the job.
        overrides: what was typed for it.
        code: that it runs.
        asked: fields of the queue's `Job` besides those that follow from the config.
        details: for its driver, besides those of every job.
        say: is told what the check finds.

    Raises:
        ValueError: it can't work, or the queue refuses it.
    """
    address = told["ray"]["address"]
    if config.resources.address not in (None, address):
        raise ValueError(
            f"resources.address={config.resources.address} is another cluster than {address}, "
            "whose queue this is; leave it out, or `orchestrate run` there"
        )
    plan = check(config, say)
    redactor = Redactor(to_dict(config))
    job = {
        "project": PROJECT,
        **asked,
        "needs": [asdict(bundle) for bundle in needs(plan)],
        "environment": _environment(plan.config, told),
    }
    every = {
        "cwd": str(Path.cwd()),
        "overrides": [redactor.text(word) for word in overrides],
        "nodes": nodes_of(told),
        "config": yaml.safe_dump(to_dict(plan.config), sort_keys=False),
    }
    return client.submit(job, MODULE, {**every, **details}, code)


def needs(plan: Plan) -> list[Bundle]:
    """What each worker of the job needs, of the largest number of workers that ever fits, and each
    process that they start beside them.
    """
    config, devices = plan.config, plan.devices
    resources = config.resources
    if resources.launcher == "inline":
        return [Bundle(resources.cpus_per_worker, resources.gpus_per_worker)]
    placement = placement_of(resources, config.sizes, config.stage.processes)
    assert devices is not None  # the plan was checked
    workers = placement.most(placement.room(devices.rooms)) or placement.sizes[-1]
    on_host = 0 if resources.gpus_per_worker else PROCESS_BYTES + int(plan.memory.start)
    one = Bundle(resources.cpus_per_worker, resources.gpus_per_worker, on_host)
    return [one] * (workers + config.stage.processes)


def nodes_of(told: dict[str, Any]) -> list[tuple[int, int]]:
    """GPUs and CPUs of each node of the cluster."""
    has = [node["resources"] for node in told["nodes"]]
    return [(int(own.get("GPU", 0)), int(own.get("CPU", 0))) for own in has]


def _environment(config: JobConfig, told: dict[str, Any]) -> dict[str, str]:
    own = {name: os.environ[name] for name in CARRIED if name in os.environ}
    if config.tracking.enabled and config.tracking.address is None:
        own["MLFLOW_TRACKING_URI"] = told["mlflow"]["uri"]
    hidden = Redactor({})
    return {name: value for name, value in own.items() if hidden.known(value) == value}
