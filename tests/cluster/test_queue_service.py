"""The queue over HTTP: a real server and table; who asks is told by the token alone."""

import pytest

from cluster.daemons.home import home, user, write
from cluster.daemons.ray_nodes import NODES
from cluster.queue import client as clients
from cluster.queue.client import Client, Unreachable, connect
from cluster.queue.job import QueueError
from cluster.queue.parcel import Parcel, pack
from cluster.queue.service import DETAILS, check_database, job_folder
from tests.cluster.queue_server import answering

PARCEL = pack({"orchestrator/x.py": b"1"})


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_STATE", str(tmp_path / "state"))
    return home()


@pytest.fixture
def queue(own):
    with answering(own) as queue:
        yield queue


@pytest.fixture
def people(own, queue):
    """Clients of three users, the last the one who has started the cluster."""
    return [Client(queue[0], own.admit(name).read_text()) for name in ("ann", "bob", user())]


def job(name="pretrain-1a2b3c", **more):
    return {"id": name, "project": "p", "needs": [{"cpus": 1}], **more}


def submit(client, name="pretrain-1a2b3c", **more):
    return client.submit(job(name, **more), "orchestrator.job.submitted", {"config": "x"}, PARCEL)


def test_a_job_is_its_submitters_whatever_it_says_and_its_files_are_the_owners_alone(
    own, queue, people
):
    ann, bob, admin = people
    taken = submit(ann, owner="bob", command=["rm"])
    assert (taken["owner"], taken["state"]) == ("ann", "waiting")
    assert taken["command"][1:4] == ["-P", "-m", "orchestrator.job.submitted"]
    assert submit(ann)["id"] == taken["id"], "handing it in again changes nothing"
    with pytest.raises(QueueError, match="in the queue already, with another owner"):
        bob.submit(job(), "m", {"config": "bob's"}, PARCEL)
    assert "bob" not in (job_folder(own, taken["id"]) / DETAILS).read_text()
    details = job_folder(own, taken["id"]) / DETAILS
    assert details.stat().st_mode & 0o777 == 0o600
    code = own.folder / "parcels" / PARCEL.id / "orchestrator/x.py"
    assert code.read_bytes() == b"1"
    environment = queue[1].get(taken["id"]).job.environment
    assert environment == {"PYTHONPATH": str(own.folder / "parcels" / PARCEL.id)}

    with pytest.raises(QueueError, match="belongs to ann; bob cannot stop it"):
        bob.stop(taken["id"])
    with pytest.raises(QueueError, match="belongs to ann; bob cannot read it"):
        bob.log(taken["id"], 0, None)
    assert admin.stop(taken["id"])["state"] == "stopped", "who runs the cluster may"
    with pytest.raises(QueueError, match="is stopped since 0 s ago; there is nothing to stop"):
        ann.stop(taken["id"])
    assert ann.resume(taken["id"])["state"] == "waiting"
    with pytest.raises(QueueError, match="nearest: pretrain-1a2b3c"):
        ann.get("pretrain-1a2b3d")
    for wrong in ("", "a/../b", "x?y"):
        with pytest.raises(QueueError, match="is no id of a job"):
            ann.get(wrong)
    assert [event["state"] for event in bob.get(taken["id"])["events"]] == [
        *("waiting", "stopped", "waiting")
    ]


def test_logs_are_read_in_parts_and_of_one_rank(own, people):
    ann = people[0]
    name = submit(ann)["id"]
    assert ann.log(name, 0, None) == (b"", "waiting")
    folder = job_folder(own, name)
    (folder / "screen.log").write_bytes(b"step 1\nstep 2\n")
    run = own.folder / "outputs" / "run"
    (run / "logs").mkdir(parents=True)
    (run / "logs" / "rank-1.log").write_bytes(b"of rank 1")
    (folder / "run").symlink_to(run)
    assert ann.log(name, 7, None) == (b"step 2\n", "waiting")
    assert ann.log(name, 0, 1) == (b"of rank 1", "waiting")
    assert ann.get(name)["run"] == str(run)


def test_what_a_client_can_not_ask_for_is_told(own, queue, people, monkeypatch):
    ann = people[0]
    with pytest.raises(QueueError, match=r"refuses the token.*orchestrate up --user"):
        Client(queue[0], "wrong").status()
    for bad, said in (
        (job("../../etc"), "must be 1 to 63 letters"),
        (job(needs=[]), "needs nothing"),
        (job(needs=[{"cpus": -1}]), "at least 0"),
        (job(secret="x"), "a job has no secret"),
        ({"needs": []}, "not a job"),
    ):
        with pytest.raises(QueueError, match=said):
            ann.submit(bad, "m", {}, PARCEL)
    with pytest.raises(QueueError, match="is damaged"):
        ann.submit(job(), "m", {}, Parcel("0" * 64, PARCEL.data))
    with pytest.raises(QueueError, match="config of the job has"):
        ann.submit(job(), "m", {"config": "x" * 2**23}, PARCEL)
    assert sorted(path.name for path in own.folder.glob("jobs/*")) == []
    monkeypatch.setattr(clients, "version", lambda: "9.9/9")
    with pytest.raises(QueueError, match=r"is orchestrate 9\.9/9 and the cluster runs"):
        ann.status()


def test_without_a_cluster_the_user_is_told_what_to_type(own, monkeypatch):
    with pytest.raises(Unreachable, match=r"no cluster is up on this machine.*orchestrate up"):
        connect()
    monkeypatch.setenv(clients.ADDRESS, "http://127.0.0.1:9")
    with pytest.raises(QueueError, match="name its file in ORCHESTRATE_TOKEN_PATH"):
        connect()
    for wrong in ("127.0.0.1:9", "nonsense", "http://a/b/c"):
        monkeypatch.setenv(clients.ADDRESS, wrong)
        with pytest.raises(QueueError, match="must read http://HOST:PORT"):
            connect()
    monkeypatch.setenv(clients.ADDRESS, "http://127.0.0.1:9")
    monkeypatch.setenv(clients.TOKEN, str(own.folder / "none"))
    with pytest.raises(QueueError, match="can't be read: No such file"):
        connect()
    for wrong in ("", "two\nlines", "t\xf6ken"):
        (own.folder / "none").write_text(wrong)
        with pytest.raises(QueueError, match="holds no token"):
            connect()
    (own.folder / "none").write_text("token")
    with pytest.raises(Unreachable, match=r"no queue answers at http://127.0.0.1:9 \(Connection"):
        connect().status()


def test_quotas_are_set_by_whose_cluster_it_is_and_what_can_never_start_is_refused(
    own, queue, people
):
    ann, _, admin = people
    with pytest.raises(QueueError, match=f"quotas are set by {user()}.* not by ann"):
        ann.set_quota({"kind": "owner", "name": "ann", "cpus": 100})
    for wrong, why in (({"gpu": 1}, "not a quota"), ({"cpus": "4"}, "whole"), ({"cpus": -1}, "-1")):
        with pytest.raises(QueueError, match=why):
            admin.set_quota({"kind": "owner", "name": "ann", **wrong})
    admin.set_quota({"kind": "owner", "name": "ann", "cpus": 2})
    assert [one["cpus"] for one in ann.quotas()] == [2]
    resources = {"CPU": 4.0, "memory": 2.0**30}
    write(own.folder / NODES, [{"name": "n0", "resources": resources, "labels": {}}])
    with pytest.raises(QueueError, match=r"quota of owner ann is cpus=2.* needs 3"):
        submit(ann, needs=[{"cpus": 3}])
    with pytest.raises(QueueError, match="the nearest is n0 with 4 CPUs"):
        submit(admin, needs=[{"cpus": 5}])
    assert submit(ann, needs=[{"cpus": 2}])["state"] == "waiting"
    admin.set_quota({"kind": "owner", "name": "ann"})
    assert ann.quotas() == []


def test_a_database_that_was_named_once_is_that_of_the_next_time_and_is_missed_when_it_is_away(
    own, tmp_path, monkeypatch
):
    assert check_database(own, None) == f"sqlite:///{own.folder / 'queue.db'}"
    place = tmp_path / "elsewhere"
    place.mkdir()
    named = f"sqlite:///{place / 'queue.db'}"
    assert check_database(own, named) == check_database(own, None) == named
    place.rename(tmp_path / "away")
    monkeypatch.setattr("cluster.queue.service.PATIENCE_S", 0.2)
    with pytest.raises(QueueError, match=r"does not answer.*its jobs are: bring it back") as no:
        check_database(own, None)
    back = str(no.value).rpartition("--database ")[2].split()[0]
    assert check_database(own, back) == check_database(own, None)
