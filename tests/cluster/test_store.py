import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from cluster.queue.admission import Candidate, decide
from cluster.queue.database import DatabaseAway, keepers, metadata
from cluster.queue.drivers import Node
from cluster.queue.job import (
    ENDED,
    STEPS,
    Bundle,
    Job,
    JobRefused,
    NotNow,
    NotYours,
    QueueError,
    Quota,
    State,
    StopCause,
    UnknownJob,
)
from cluster.queue.keeping import Fenced, Keeping
from cluster.queue.rows import Step
from cluster.queue.store import Store

ROOT = Path(__file__).parents[2]


def job(job_id, **other):
    given = {"owner": "ann", "project": "p", "needs": (Bundle(1),), "command": ("true",)}
    return Job(job_id, **given | other)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """The address of a PostgreSQL of our own."""
    pgserver = pytest.importorskip("pgserver", reason="pgserver is not installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"))
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path):
    """Of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/queue.db"
        return
    yield (url := request.getfixturevalue("postgres"))
    engine = create_engine(url)
    metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def store(address):
    store = Store(address, patience_s=5)
    yield store
    store.close()


GIVEN = '{"id": "a", "owner": "ann", "project": "p", "needs": [{"cpus": 1}], %s}'


def keeping(store, lease_s=60.0):
    one = Keeping(store.database, lease_s)
    assert one.held()
    return one


def test_a_job_is_kept_as_it_was_handed_in_and_handing_it_in_again_changes_nothing(store):
    gang = (Bundle(4, 1, 2**33, ("zone=a",)),) * 2 + (Bundle(1),)
    given = job("a", needs=gang, priority=3, limit_s=60.0, environment={"LR": "0.1"}, name="β 1")
    first = store.add([given])
    assert store.add([given]) == first == [store.get("a")]
    assert first[0].job == given
    assert Job.from_json(given.to_json()) == given
    with pytest.raises(JobRefused, match="a is in the queue already, with another priority"):
        store.add([job("b"), job("a", needs=gang, limit_s=60.0, name="β 1")])
    assert [one.job.id for one in store.list()] == ["a"]  # all or none


def test_every_step_leaves_its_sentence_and_only_steps_that_there_are_can_be_made(store):
    store.add([job("a")])
    keeper = keeping(store)
    (record,) = keeper.records(State)
    placed = {"attempt": 1, "placement": '["n0"]'}
    assert keeper.step([Step(record, State.STARTING, changes=placed)])
    assert not keeper.step([Step(record, State.STARTING, changes=placed)])  # it has moved since
    with pytest.raises(KeyError):
        keeper.step([Step(keeper.records(State)[0], State.PREEMPTED)])
    assert store.stop("a", "ann").state is State.STOPPING
    assert store.stop("a", "ann").cause is StopCause.OWNER
    keeper.step([Step(keeper.records(State)[0], State.STOPPED)])
    assert store.resume("a", "ann").state is State.WAITING
    steps = [(event.came_from, event.state, event.attempt) for event in store.events("a")]
    assert steps == [
        (None, State.WAITING, 0),
        (State.WAITING, State.STARTING, 1),
        (State.STARTING, State.STOPPING, 1),
        (State.STOPPING, State.STOPPED, 1),
        (State.STOPPED, State.WAITING, 1),
    ]
    assert all(event.sentence for event in store.events("a"))


def test_from_every_state_a_job_can_end_and_from_every_end_but_success_go_on():
    reached = dict.fromkeys(State, frozenset())
    for _ in State:
        for before, after in STEPS:
            reached[before] |= {after} | reached[after]
    for state in State:
        assert state is State.DONE or reached[state] >= ENDED
    assert not reached[State.DONE]


def test_what_cannot_be_done_is_refused_with_what_would(store):
    store.add([job("train-1"), job("train-2")])
    with pytest.raises(UnknownJob, match="'trian-1'; nearest: train-1, train-2"):
        store.get("trian-1")
    with pytest.raises(NotYours, match="train-1 belongs to ann; bea cannot stop it"):
        store.stop("train-1", "bea")
    assert store.stop("train-1", "root", anyone=True).state is State.STOPPED
    with pytest.raises(NotNow, match="train-1 is stopped since 0 s ago; there is nothing to stop"):
        store.stop("train-1", "ann")
    for after, why in [
        (("x",), "x is the job itself"),
        (("train-3",), r"after=train-3: .* nearest: train-2"),
        (("train-1",), "train-1, which is stopped; resume that one first"),
    ]:
        with pytest.raises(JobRefused, match=why):
            store.add([job("x", after=after)])
    circle = [job("x", after=("y",)), job("y", after=("z",)), job("z", after=("x",)), job("w")]
    with pytest.raises(JobRefused, match="x, y, z run after one another in a circle"):
        store.add(circle)
    store.add([job("x", after=("y",)), job("y", after=("train-2",))])
    assert [one.job.id for one in store.list(states=[State.WAITING])] == ["train-2", "x", "y"]
    assert [one.job.id for one in store.list(newest=2, owner="ann")] == ["x", "y"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Bundle(-1), "cpus=-1 must be a whole number, at least 0"),
        (lambda: Bundle(0.5), "cpus=0.5 must be a whole number"),
        (lambda: Bundle(), "a bundle of nothing"),
        (lambda: Bundle(1, labels=("gpu",)), "label 'gpu' must read key=value"),
        (lambda: job("a b/../c"), r"id='a b/../c' must be .*; e.g. a-b-..-c"),
        (lambda: job(""), "e.g. job-1"),
        (lambda: job("x" * 64), "1 to 63 letters"),
        (lambda: job("a", owner="\n"), "owner='\\\\n' must be a name"),
        (lambda: job("a", needs=()), "needs nothing"),
        (lambda: job("a", command=()), "has no command"),
        (lambda: job("a", limit_s=0.0), "limit_s=0.0 must be a number of seconds above 0"),
        (lambda: Job.from_json('{"id": "a", "gpu": 1}'), "a job has no gpu; it has"),
        (lambda: Job.from_json('{"id": "a"}'), "not a job: 'needs'"),
        (lambda: Job.from_json("["), "not a job"),
        (lambda: Bundle(10**30), "at most 2"),
        (lambda: job("a", not_before=1e300), "below the year 9999"),
        (lambda: job("a", environment={"A=B": "1"}), "'A=B' cannot name"),
        (lambda: Job.from_json(GIVEN % '"command": "true"'), "command='true' must be a list"),
        (lambda: Quota("team", "a", cpus=1), "owner or a project, not of a 'team'"),
        (lambda: Quota("owner", "a", cpus=-1), "cpus=-1 must be a whole number"),
        (lambda: Store("queue.db"), "e.g. sqlite:////home/me/queue.db"),
        (lambda: Store("sqlite://"), "in memory and would be lost"),
    ],
)
def test_nonsense_is_refused_where_it_is_made(make, why):
    with pytest.raises(QueueError, match=why):
        make()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([one.name for one in fields(Job)]), VALUES, st.booleans())
def test_whatever_a_client_sends_is_refused_or_can_be_decided_about(name, value, in_bundle):
    given = json.loads(GIVEN % '"command": ["true"]')
    if in_bundle:
        given["needs"] = [{"cpus": 1, "gpus": 0} | {"memory_bytes": value, "labels": []}]
    else:
        given[name] = value
    try:
        sent = Job.from_json(json.dumps(given))
    except JobRefused:
        return
    assert Job.from_json(sent.to_json()) == sent
    assert decide([Node("n", 1)], [], [Candidate(sent, 1)], [], 0.0)


def test_of_two_keepers_one_writes_and_the_later_silences_the_earlier(store):
    store.add([job("a")])
    first = keeping(store)
    waiting, impatient = Keeping(store.database, 60), Keeping(store.database, 0.2)
    assert not waiting.held()
    assert not impatient.held()
    assert first.held()  # a sign of life, by which the challenger's wait begins anew
    time.sleep(0.21)
    assert not impatient.held()
    time.sleep(0.21)
    assert impatient.held()
    (record,) = first.records(State)
    with pytest.raises(Fenced, match=r"kept by .* \(number 2\); number 1 writes no more"):
        first.step([Step(record, State.STOPPED)])
    with pytest.raises(Fenced):
        first.held()
    assert store.get("a").state is State.WAITING
    impatient.release()
    assert waiting.held()


def test_quotas_are_set_replaced_and_taken_away(store):
    store.set_quota(Quota("owner", "ann", gpus=4))
    store.set_quota(Quota("owner", "ann", cpus=8))
    store.set_quota(Quota("project", "*", jobs=0))
    assert store.quotas() == [Quota("owner", "ann", cpus=8), Quota("project", "*", jobs=0)]
    store.set_quota(Quota("owner", "ann"))
    assert store.quotas() == [Quota("project", "*", jobs=0)]


def test_a_keeper_that_is_gone_is_followed_at_once_on_the_same_machine(tmp_path):
    url = f"sqlite:///{tmp_path}/queue.db"
    code = (
        "import os; from cluster.queue.keeping import Keeping; from cluster.queue.store import *;"
        f"assert Keeping(Store({url!r}).database, 60).held(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    store = Store(url)
    assert keeping(store).fence == 2
    store.close()


def test_a_locked_database_is_waited_for_and_one_that_is_gone_is_told(tmp_path):
    path = tmp_path / "queue.db"
    store = Store(f"sqlite:///{path}", patience_s=1.5)
    store.add([job("a")])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseAway, match=r"queue.db does not answer for 1.5 s: .*locked"):
            store.add([job("b")])
        assert store.get("a").state is State.WAITING  # who only reads is not held up
    store.add([job("b")])
    path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(DatabaseAway, match="was removed or replaced"):
        store.add([job("c")])
    (tmp_path / "elsewhere.db").rename(path)
    assert [one.job.id for one in store.list()] == ["a", "b"]
    with store.database.engine.begin() as connection:
        connection.execute(keepers.update().values(schema=7))
    store.close()
    with pytest.raises(QueueError, match="tables of version 7, this program knows version 1"):
        Store(f"sqlite:///{path}")
    (tmp_path / "notes.txt").write_text("not a database" * 100)
    with pytest.raises(QueueError, match=r"notes.txt cannot be a queue: file is not a database"):
        Store(f"sqlite:///{tmp_path}/notes.txt")
    with pytest.raises(DatabaseAway, match="unable to open"):
        Store(f"sqlite:///{tmp_path}/no/folder/queue.db", patience_s=0.1)


RIVAL = """
import os, sys
from cluster.queue.job import Bundle, Job
from cluster.queue.keeping import Keeping
from cluster.queue.rows import Step
from cluster.queue.job import State
from cluster.queue.store import Store

url, folder = sys.argv[1:]
for rival in range(4):
    if not os.fork():
        break
else:
    failed = [os.wait()[1] for _ in range(4)]
    sys.exit(any(failed))
store = Store(url)  # of an absent database by four at once
for number in range(10):
    shared = Job(f"shared-{number}", "ann", "p", (Bundle(1),), ("true",))
    store.add([shared, Job(f"own-{rival}-{number}", "ann", "p", (Bundle(1),), ("true",))])
    try:
        store.stop(f"shared-{number}", "ann")
        open(f"{folder}/stopped-{number}-{rival}", "w").close()
    except ValueError as error:
        assert "nothing to stop" in str(error)
"""


def test_processes_that_create_add_and_stop_at_the_same_time_do_not_get_in_each_others_way(
    address, tmp_path
):
    subprocess.run([sys.executable, "-c", RIVAL, address, tmp_path], cwd=ROOT, check=True)
    store = Store(address)
    assert len(store.list()) == 50
    for number in range(10):
        assert len(list(tmp_path.glob(f"stopped-{number}-*"))) == 1
        assert len(store.events(f"shared-{number}")) == 2
    store.close()


def test_the_queue_is_on_the_disk_when_a_write_returns(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/queue.db")
    settings = store.database.read(
        lambda connection: [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous")
        ]
    )
    assert settings == ["wal", 2]  # 2: FULL
    store.close()
