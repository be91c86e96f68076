from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.queue.admission import Candidate, decide, refuse_what_never_fits
from cluster.queue.drivers import Node
from cluster.queue.job import Bundle, Job, JobRefused, Quota, State
from cluster.queue.preemption import Holding
from tests.cluster.simulated import Arrival, Simulation

THOROUGH = settings(max_examples=100, deadline=None)


def job(job_id, needs, **other):
    needs = needs if isinstance(needs, tuple) else (needs,)
    return Job(job_id, **{"owner": "ann", "project": "p", **other}, needs=needs, command=("true",))


nodes = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 3), st.sampled_from(["a", "b"])),
    min_size=1,
    max_size=3,
).map(
    lambda rows: [
        Node(f"n{row}", cpus, gpus, 8, frozenset({f"zone={zone}"}))
        for row, (cpus, gpus, zone) in enumerate(rows)
    ]
)
bundles = st.builds(
    Bundle,
    cpus=st.integers(1, 3),
    gpus=st.sampled_from([0, 0, 1, 2]),
    memory_bytes=st.sampled_from([0, 4]),
    labels=st.sampled_from([(), (), ("zone=a",)]),
)
needs_of_one_kind = st.tuples(bundles, st.integers(1, 3)).map(lambda kind: (kind[0],) * kind[1])
any_needs = st.one_of(needs_of_one_kind, st.tuples(bundles, bundles))


@st.composite
def queues(draw, needs=any_needs, priorities=(0, 0, 1), limits=(None, 10.0, 30.0)):
    """Jobs that run where an earlier decision put them, and jobs that wait."""
    machines = draw(nodes)
    drawn = [
        job(
            f"j{number}",
            draw(needs),
            priority=draw(st.sampled_from(priorities)),
            limit_s=draw(st.sampled_from(limits)),
            owner=draw(st.sampled_from(["ann", "bea"])),
        )
        for number in range(draw(st.integers(1, 8)))
    ]
    early = draw(st.integers(0, len(drawn)))
    first = decide(machines, [], [Candidate(one, n) for n, one in enumerate(drawn[:early])], [], 0)
    running = [
        Holding(one, first.starts[one.id], draw(st.sampled_from([0.0, 5.0])))
        for one in drawn[:early]
        if one.id in first.starts
    ]
    held = {one.job.id for one in running}
    waiting = [Candidate(one, n) for n, one in enumerate(drawn) if one.id not in held]
    return machines, running, waiting


def free_of(machines, placed):
    """What is left of each node under (job, placement) pairs: the slow way."""
    free = {one.name: [one.cpus, one.gpus, one.memory_bytes] for one in machines}
    for one, placement in placed:
        for bundle, name in zip(one.needs, placement, strict=True):
            for column, amount in enumerate((bundle.cpus, bundle.gpus, bundle.memory_bytes)):
                free[name][column] -= amount
    return free


def fits(machines, one, free):
    """Whether there is any place for a job, by trying all."""
    labels = {node.name: node.labels for node in machines}
    for names in product(free, repeat=len(one.needs)):
        left = {name: list(amounts) for name, amounts in free.items()}
        for bundle, name in zip(one.needs, names, strict=True):
            for column, amount in enumerate((bundle.cpus, bundle.gpus, bundle.memory_bytes)):
                left[name][column] -= amount
        allowed = all(
            labels[name].issuperset(bundle.labels)
            for bundle, name in zip(one.needs, names, strict=True)
        )
        if allowed and all(amount >= 0 for amounts in left.values() for amount in amounts):
            return True
    return False


@THOROUGH
@given(queues(), st.randoms())
def test_every_job_is_placed_whole_within_what_is_free_or_told_why_not(queue, random):
    machines, running, waiting = queue
    decision = decide(machines, running, waiting, [], 0)
    assert decision.starts.keys() | decision.verdicts.keys() == {one.job.id for one in waiting}
    assert not decision.starts.keys() & decision.verdicts.keys()
    assert all(verdict.reason for verdict in decision.verdicts.values())
    jobs = {one.job.id: one.job for one in waiting}
    placed = [(one.job, one.placement) for one in running]
    placed += [(jobs[name], placement) for name, placement in decision.starts.items()]
    assert all(amount >= 0 for left in free_of(machines, placed).values() for amount in left)
    labels = {node.name: node.labels for node in machines}
    for one, placement in placed:
        for bundle, name in zip(one.needs, placement, strict=True):
            assert labels[name].issuperset(bundle.labels)
    mixed = [random.sample(some, len(some)) for some in (machines, running, waiting)]
    again = decide(*mixed, [], 0)
    assert (again.starts, again.verdicts) == (decision.starts, decision.verdicts)


@THOROUGH
@given(queues(needs=needs_of_one_kind))
def test_the_first_in_line_starts_exactly_if_it_fits_and_else_weaker_jobs_leave_if_that_helps(
    queue,
):
    machines, running, waiting = queue
    decision = decide(machines, running, waiting, [], 0)
    order = sorted(waiting, key=lambda one: (-one.job.priority, one.seq))
    placed = [(one.job, one.placement) for one in running]
    empty = free_of(machines, [])
    for one in order:
        if not fits(machines, one.job, empty):
            assert one.job.id in decision.verdicts
            continue
        free = free_of(machines, placed)
        if fits(machines, one.job, free):
            placed.append((one.job, decision.starts[one.job.id]))
            continue
        assert one.job.id in decision.verdicts
        weaker = [run for run in running if run.job.priority < one.job.priority]
        left = [name for name, other in decision.preempted.items() if other == one.job.id]
        assert set(left) <= {run.job.id for run in weaker}

        def without(gone, placed=placed):
            return free_of(machines, [pair for pair in placed if pair[0].id not in gone])

        assert bool(left) == fits(machines, one.job, without({run.job.id for run in weaker}))
        if left:
            assert fits(machines, one.job, without(set(left)))
            for kept in left:
                assert not fits(machines, one.job, without(set(left) - {kept}))
        break


@THOROUGH
@given(queues())
def test_of_equal_jobs_the_earlier_starts_first(queue):
    machines, running, waiting = queue
    starts = decide(machines, running, waiting, [], 0).starts
    for one, other in product(waiting, waiting):
        a, b = one.job, other.job
        equal = (a.kinds, a.limit_s, a.priority) == (b.kinds, b.limit_s, b.priority)
        if equal and one.seq < other.seq and b.id in starts:
            assert a.id in starts


@st.composite
def traces(draw, priorities=(0,)):
    """Jobs that arrive over time, run at most to their limits, and all fit on the empty nodes."""
    machines = [Node("n0", 4, 2), Node("n1", 4, 0), Node("n2", 2, 1)]
    arrivals = []
    for number in range(draw(st.integers(1, 20))):
        bundle = Bundle(draw(st.integers(1, 2)), draw(st.sampled_from([0, 0, 1])))
        count = draw(st.integers(1, 2 if bundle.gpus else 4))
        limit = draw(st.sampled_from([3.0, 10.0, 40.0]))
        one = job(
            f"j{number}",
            (bundle,) * count,
            limit_s=limit,
            priority=draw(st.sampled_from(priorities)),
            owner=draw(st.sampled_from(["ann", "bea"])),
        )
        at_s, share = draw(st.sampled_from([0, 1, 5, 20])), draw(st.sampled_from([0.5, 1]))
        arrivals.append(Arrival(at_s, one, limit * share))
    return machines, sorted(arrivals, key=lambda one: one.at_s)


@THOROUGH
@given(traces())
def test_no_reservation_is_ever_delayed_and_every_job_ends(trace):
    simulation = Simulation(*trace)
    for _ in simulation.rounds():
        pass
    for life in simulation.lives.values():
        assert life.ended_s is not None
        assert life.started_s <= life.promised_s + 1e-6


@THOROUGH
@given(traces(priorities=(0, 1, 2)))
def test_preempted_jobs_go_on_and_quotas_hold_at_any_time(trace):
    quotas = [Quota("owner", "bea", cpus=8, jobs=2), Quota("project", "*", gpus=2)]
    simulation = Simulation(*trace, quotas=quotas)
    for moment in simulation.rounds():
        jobs = [one.job for one in moment.running]
        assert sum(one.owner == "bea" for one in jobs) <= 2
        assert sum(one.total("cpus") for one in jobs if one.owner == "bea") <= 8
        assert sum(one.total("gpus") for one in jobs) <= 2
    assert all(life.ended_s is not None for life in simulation.lives.values())


def test_a_large_job_is_not_starved_by_small_ones_that_never_cease_to_arrive():
    machines = [Node(f"n{row}", 2) for row in range(4)]
    small = [Arrival(t, job(f"s{t}", Bundle(1), limit_s=30), 25) for t in range(250)]
    large = Arrival(50, job("large", (Bundle(2),) * 4, limit_s=60), 60)
    simulation = Simulation(machines, sorted([*small, large], key=lambda one: one.at_s))
    for _ in simulation.rounds():
        pass
    handed_in_before = 50 * 25 / 8  # seconds that their work takes on 8 CPUs
    assert simulation.lives["large"].started_s <= handed_in_before + 30
    assert all(life.ended_s is not None for life in simulation.lives.values())


def test_small_jobs_fill_the_gap_before_a_large_one_and_only_if_they_end_in_time():
    machines = [Node("n0", 4)]
    running = [Holding(job("old", Bundle(2), limit_s=100), ("n0",), 40)]
    waiting = [
        Candidate(one, seq)
        for seq, one in enumerate(
            [
                job("large", Bundle(4)),
                job("long", Bundle(1), limit_s=61),
                job("endless", Bundle(1)),
                job("short", Bundle(1), limit_s=60),
            ]
        )
    ]
    decision = decide(machines, running, waiting, [], 0)
    assert decision.starts == {"short": ("n0",)}
    assert decision.verdicts["large"].expected_start_s == 60
    assert "at most 60 s" in decision.verdicts["long"].reason
    beside = [job("large", Bundle(5)), *(job(f"endless-{n}", Bundle(2)) for n in range(2))]
    waiting = [Candidate(one, seq) for seq, one in enumerate(beside)]
    assert decide(
        [Node("n0", 8)], [replace(running[0], job=job("old", Bundle(4)))], waiting, [], 0
    ).starts.keys() == {"endless-0"}


def test_jobs_without_gpus_go_where_gpus_are_in_use_and_gangs_to_few_nodes():
    machines = [Node("a", 8, 4), Node("b", 8, 4), Node("c", 8, 4), Node("d", 8, 2)]
    running = [Holding(job("train", Bundle(4, 4)), ("b",))]
    waiting = [Candidate(job("cpu", Bundle(1)), 0), Candidate(job("gang", (Bundle(1, 2),) * 4), 1)]
    decision = decide(machines, running, waiting, [], 0)
    assert decision.starts == {"cpu": ("b",), "gang": ("a", "a", "c", "c")}


def test_the_fewest_weaker_jobs_leave_and_of_equally_good_ones_the_least_important_and_youngest():
    machines = [Node("n0", 4), Node("n1", 4)]
    running = [
        Holding(job("half-1", Bundle(2), priority=1), ("n0",), 10),
        Holding(job("half-2", Bundle(2), priority=1), ("n0",), 10),
        Holding(job("old", Bundle(4), priority=2), ("n1",), 500),
    ]
    urgent = Candidate(job("urgent", Bundle(4), priority=5), 9)
    assert decide(machines, running, [urgent], [], 0).preempted == {"old": "urgent"}
    young = [*running[:2], Holding(job("a", Bundle(2)), ("n1",), 90)]
    young += [Holding(job("b", Bundle(2)), ("n1",), 20)]
    small = Candidate(job("urgent", Bundle(1), priority=5), 9)
    assert decide(machines, young, [small], [], 0).preempted == {"b": "urgent"}
    crowd = [Holding(job(f"w{age}", Bundle(min(age, 2))), ("n0",), age) for age in (1, 2, 3)]
    large = Candidate(job("urgent", Bundle(4), priority=5), 9)
    assert decide([Node("n0", 5)], crowd, [large], [], 0).preempted.keys() == {"w2", "w3"}
    stopping = [*young[:3], Holding(young[3].job, ("n1",), 20, stopping=True)]
    decision = decide(machines, stopping, [small], [], 0)
    assert not decision.preempted
    assert decision.verdicts["urgent"].reason == "needs 1 CPU; starts when b has saved and left"


def test_each_urgent_job_has_a_place_of_its_own_made_and_no_weaker_one_slips_in():
    machines = [Node("n0", 4), Node("n1", 4)]
    running = [Holding(job(f"weak-{row}", Bundle(3)), (f"n{row}",), 10) for row in range(2)]
    urgent = [Candidate(job(f"urgent-{n}", Bundle(4), priority=5), n) for n in range(2)]
    decision = decide(machines, running, [*urgent, Candidate(job("tiny", Bundle(1)), 9)], [], 0)
    assert decision.preempted == {"weak-0": "urgent-0", "weak-1": "urgent-1"}
    assert not decision.starts


NODES = [
    Node("n0", 4, 0, 2**34),
    Node("n1", 16, 4, 2**35, frozenset({"zone=a"})),
]
FULL = [Holding(job("old", (Bundle(4), Bundle(16, 4)), limit_s=600), ("n0", "n1"), 0)]


@pytest.mark.parametrize(
    ("one", "held_up", "sentence"),
    [
        (
            job("x", Bundle(4, 8)),
            (),
            "needs a node with 8 GPUs, 4 CPUs; the nearest is n1 with 4 GPUs, 16 CPUs, 32.0 GiB",
        ),
        (
            job("x", Bundle(1, labels=("zone=c",))),
            (),
            "needs a node with zone=c; the nodes have zone=a",
        ),
        (
            job("x", (Bundle(1, 2),) * 3),
            (),
            "needs 3 x (2 GPUs, 1 CPU), and the 2 nodes hold 2 of them when nothing else runs",
        ),
        (
            job("x", Bundle(1), after=("a", "b")),
            (("a", State.RUNNING), ("b", State.WAITING)),
            "runs after a, which is running and 1 more",
        ),
        (
            job("x", Bundle(1), after=("a",)),
            (("a", State.FAILED),),
            "runs after a, which is failed; resume a, or stop this job",
        ),
        (
            job("x", Bundle(1), not_before=7200.0),
            (),
            "is to start after 1970-01-01 02:00:00 UTC, in 119 min",
        ),
        (
            job("x", Bundle(1, 2), owner="bea"),
            (),
            "the quota of owner bea is gpus=1, of which 0 are in use; this job needs 2",
        ),
        (
            job("x", (Bundle(1), Bundle(1))),
            (),
            "needs 2 x (1 CPU), of which 0 of 2 parts fit now; it is the next to start, likely in "
            "10 min, when old ends",
        ),
    ],
)
def test_the_reason_names_what_is_missing_with_its_numbers(one, held_up, sentence):
    quotas = [Quota("owner", "bea", gpus=1)]
    decision = decide(NODES, FULL, [Candidate(one, 1, waits_for=held_up)], quotas, 60.0)
    assert decision.verdicts["x"].reason == sentence


def test_a_job_behind_others_is_told_how_many_who_is_first_and_about_when():
    waiting = [Candidate(job(f"j{n}", Bundle(2, 1), limit_s=60), n) for n in range(3)]
    reason = decide(NODES, FULL, waiting, [], 0).verdicts["j2"].reason
    assert reason == (
        "needs 1 GPU, 2 CPUs, which fits on no node now; 2 jobs are ahead of it, the first j0 "
        "(1 GPU, 2 CPUs); likely to start in 10 min"
    )


def test_what_can_never_fit_is_refused_with_the_nearest_node_or_the_quota():
    with pytest.raises(JobRefused, match=r"job x: needs a node with 8 GPUs.* the nearest is n1"):
        refuse_what_never_fits(job("x", Bundle(1, 8)), NODES, [])
    with pytest.raises(JobRefused, match=r"job x: the quota of project p is cpus=3.*needs 4"):
        refuse_what_never_fits(job("x", Bundle(4)), NODES, [Quota("project", "*", cpus=3)])
    with pytest.raises(JobRefused, match="job x: needs 1 CPU, and no node is there"):
        refuse_what_never_fits(job("x", Bundle(1)), [], [])
    refuse_what_never_fits(job("x", Bundle(4)), NODES, [Quota("project", "*", cpus=4)])
