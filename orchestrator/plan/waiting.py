"""How long a job would wait for its place in the queue of a cluster, if one is up."""

import time

from cluster.queue.client import Unreachable, connect
from cluster.queue.job import Bundle, QueueError
from data.messages import clock
from orchestrator.config import JobConfig


def wait_line(config: JobConfig) -> str | None:
    """What the plan says of it, by the estimate of `orchestrate status`; None: no cluster is up."""
    resources = config.resources
    needs = [Bundle(resources.cpus_per_worker, resources.gpus_per_worker)]
    needs *= config.workers + config.stage.processes
    try:
        client = connect(mends=False)
        from cluster.queue.foretelling import verdict  # numpy, where there is a cluster

        found = verdict(client.status(), client.quotas(), needs)
    except Unreachable:
        return None
    except QueueError as error:
        return f"can't be told: {error}"
    if found is None:
        return "orchestrate submit would start it at once"
    if found.expected_start_s is None:
        return f"submitted now it waits: {found.reason}"
    left = clock(max(0.0, found.expected_start_s - time.time()))
    return f"submitted now it starts in about {left}, by what is known of others: {found.reason}"
