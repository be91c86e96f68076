"""A node that is lost in the middle of a collective, on a cluster of three raylets here."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

DRIVER = """
import json, os, signal, sys, threading, time
from pathlib import Path
from cluster.emulated import emulated_cluster
from cluster.gang import Gang, Placement, WorkerFailed
from cluster.placement import CHOSEN

def work(rounds, channel):
    import torch, torch.distributed as dist
    dist.init_process_group("gloo")
    try:
        for number in range(rounds):
            total = torch.ones(1)
            dist.all_reduce(total)
            channel.send({"round": number})
            time.sleep(0.02)
        return total.item()
    finally:
        dist.destroy_process_group()

killed_at = []

def on_records(rank, records):
    if not killed_at and any(record["round"] > 30 for record in records):
        killed_at.append(time.monotonic())
        os.kill(node.raylet, signal.SIGKILL)

told = {}
with emulated_cluster(nodes=2) as cluster:
    os.environ |= cluster.environment
    node = cluster.nodes[1]
    placement = Placement(2, 1, address=cluster.address)
    with Gang(placement, log_folder=Path(sys.argv[1]), stop=threading.Event()) as gang:
        before = list(gang.start())
        [told["lost"]] = [worker["rank"] for worker in before if worker["node"] == node.node]
        try:
            gang.run(work, 100_000, on_records)
        except WorkerFailed as failure:
            told["failed_after_s"] = time.monotonic() - killed_at[0]
            told["failure"] = failure.rank, failure.cause, failure.message
        cluster.add()
        told["restarts"] = 0
        for told["restarts"] in range(1, 6):
            try:
                after = gang.restart()
                break
            except WorkerFailed as failure:
                assert failure.cause == "start"  # Ray does not yet know that the node is gone
        told["same"] = len({w["pid"] for w in before} & {w["pid"] for w in after})
        told["results"] = gang.run(work, 5, lambda rank, records: None)

    head, lost, spare = (raylet.node for raylet in cluster.nodes)
    told["chosen"], told["had"] = [head, spare, lost], []
    for chosen in told["chosen"]:
        os.environ[CHOSEN] = chosen
        one = Placement(1, 1, address=cluster.address)
        with Gang(one, log_folder=Path(sys.argv[1]), stop=threading.Event()) as gang:
            told["had"] += [worker["node"] for worker in gang.start()]
            if chosen != spare:
                continue
            killed_at, node = [], cluster.nodes[2]
            try:
                gang.run(work, 100_000, on_records)
            except WorkerFailed:
                told["moved"] = [worker["node"] for worker in gang.restart()]
print(json.dumps(told))
"""


def test_the_rank_of_a_lost_node_is_blamed_at_once_and_goes_on_on_a_spare_node(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    rank, cause, message = told["failure"]
    assert rank == told["lost"], message  # and not the one that saw the connection close
    assert cause == "lost", message
    assert told["failed_after_s"] < 10  # Ray itself knows only after its health checks
    assert told["same"] == 1
    assert told["results"] == [2.0, 2.0]
    head, spare, _ = told["chosen"]
    assert told["had"] == [head, spare, head], "where it was chosen, as long as that is there"
    assert told["moved"] == [head], "what was bound to a node that is lost"
