"""What a run remembers: the multiset against counting tokens, the state against crashes."""

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.files import DataError
from data.order import Order
from data.order.mixture import MIXTURE_BLOCK, Mixture, Phase
from data.order.multiset import Multiset, dataset_keys, expected_multiset
from data.order.resuming import changes, resume
from data.order.state import Batches, DatasetFacts, DataState, Exclusion, Skipped

Q = MIXTURE_BLOCK
R = 64  # row tokens
SIZES = {"wiki": 700, "code": 3001, "books": 53, "late": 97}
FINGERPRINTS = {name: name.encode().hex().ljust(64, "0") for name in SIZES}
START = Phase(0, {"wiki": 7, "code": 2, "books": 1})
WITH_LATE = Phase(Q, {"code": 1, "late": 3})


def mixture(phases=(START,), seed=0):
    names = [name for name in SIZES if any(name in phase.weights for phase in phases)]
    orders = {
        name: Order(SIZES[name], seed, f"{name}\0{FINGERPRINTS[name]}", 4, 8, 16) for name in names
    }
    return Mixture(orders, phases, seed)


def job(phases=(START,), batch=8, length=R, seed=0, packing="chunked", row_tokens=R):
    return DataState.begin(
        mixture(phases, seed),
        FINGERPRINTS,
        row_tokens=row_tokens,
        packing=packing,
        global_batch_size=batch,
        sequence_length=length,
    )


def keys(made):
    return dataset_keys({name: FINGERPRINTS[name] for name in made.names})


# --- multiset: stretches are (dataset, epoch, row, start, stop)

stretches = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 2),
        st.integers(0, 2),
        *[st.integers(0, 4)] * 2,
    ).map(lambda s: (*s[:3], min(s[3:]), max(s[3:]))),
    max_size=8,
)
TWO = dataset_keys({"a": "1", "b": "2"})


def summed(found, start=None):
    start = start or Multiset()
    if not found:
        return start
    dataset, epoch, row, first, stop = np.array(found).T
    return start.add(TWO[dataset], epoch, row, first, stop)


def tokens(found):
    """How often each token is in it."""
    return Counter((*s[:3], token) for s in found for token in range(s[3], s[4]))


@settings(max_examples=300, deadline=None)
@given(one=stretches, other=stretches)
def test_sums_are_equal_exactly_when_each_token_is_there_as_often(one, other):
    assert (summed(one) == summed(other)) == (tokens(one) == tokens(other))


@given(found=stretches, seed=st.integers(0, 100))
def test_the_sum_does_not_depend_on_who_adds_what_and_when(found, seed):
    shuffled = random.Random(seed).sample(found, len(found))
    ranks = [summed(shuffled[rank::3]) for rank in range(3)]
    total = Multiset()
    for rank in ranks:
        total = total.combine(*rank.sums)
    assert total == summed(found)
    # A signed all-reduce of 64-bit numbers gives the same.
    signed = [np.array([s], dtype=np.uint64).view(np.int64)[0] for s in ranks[0].sums]
    assert Multiset().combine(*map(int, signed)) == ranks[0]
    assert Multiset.from_hex(total.hex) == total


def test_sequences_of_any_length_add_up_to_their_rows():
    rows = np.arange(100)
    whole = Multiset().add(TWO[0], 3, rows, 0, 64)
    for length in (1, 16, 32):
        parts = np.arange(64 // length) * length
        cut = Multiset()
        for part in parts:
            cut = cut.add(TWO[0], 3, rows, part, part + length)
        assert cut == whole
    assert whole.add(TWO[0], 3, 5, 0, 64) != whole
    assert Multiset().add(TWO[0], 3, rows[:-1], 0, 64) != whole
    assert Multiset().add(TWO[1], 3, rows, 0, 64) != whole


def test_the_expected_sum_is_that_of_walking_there():
    made = mixture((START, WITH_LATE))
    whole = expected_multiset(made, keys(made), R, 0, 6000 * R)
    draw = made(np.arange(6000))
    assert whole == Multiset().add(keys(made)[draw.dataset], draw.epoch, draw.row, 0, R)
    total = Multiset()
    for start, stop in ((0, 7), (7, 7), (7, 64), (64, 1000), (1000, 4099 * R + 1)):
        total = total.combine(*expected_multiset(made, keys(made), R, start, stop).sums)
    rest = expected_multiset(made, keys(made), R, 4099 * R + 1, 6000 * R)
    assert total.combine(*rest.sums) == whole


def test_the_sum_never_changes_between_versions():
    # Recorded on purpose: stored sums must stay comparable.
    assert Multiset().add(TWO[0], [0, 1], [5, 6], 0, 64).hex == GOLDEN


GOLDEN = "8ca3e77ff658481627ba77e310829751"


# --- the state


def test_steps_and_cursors_are_those_of_walking_the_batches():
    rng = random.Random(0)
    state, walked = job(), [0]
    for _ in range(30):
        state = state.with_batch(rng.randint(1, 9), rng.choice([16, 32, 64]))
        if state.cursor % state.batches[-1].sequence_length:
            raise AssertionError("an illegal length was taken")
        # Whole rows, so that every length may follow.
        for _ in range(4 * rng.randint(0, 3)):
            walked.append(walked[-1] + state.batches[-1].tokens)
            state = state.advanced(1, Multiset())
    assert state.step == len(walked) - 1
    assert [state.cursor_of_step(step) for step in range(len(walked))] == walked
    for step, (start, stop) in enumerate(pairwise(walked)):
        assert {state.step_of_cursor(c) for c in (start, (start + stop) // 2, stop - 1)} == {step}
    # What is to come goes on with the last batches.
    assert state.cursor_of_step(len(walked) + 1) == walked[-1] + 2 * state.batches[-1].tokens
    assert state.step_of_cursor(state.cursor_of_step(10**9)) == 10**9


def test_batches_that_no_step_was_made_of_leave_no_trace():
    state = job(batch=8).advanced(2, Multiset())
    assert state.with_batch(8, R) == state
    changed = state.with_batch(5, R)
    assert changed.batches == (Batches(0, 0, 8, R), Batches(2, 2 * 8 * R, 5, R))
    assert changed.with_batch(6, R).batches == (Batches(0, 0, 8, R), Batches(2, 2 * 8 * R, 6, R))
    assert changed.with_batch(8, R) == state


def full_state():
    """A state with something in every field."""
    trained = Multiset().add(TWO[0], 0, [1, 2], 0, R)
    state = job((START, WITH_LATE)).advanced(3, trained, Skipped(2, trained))
    return state.with_batch(4, 32).excluding("wiki", 512, 1024)


def test_a_state_survives_json():
    state = full_state()
    assert DataState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_a_large_state_is_small_json():
    names = [f"dataset_{i:04}" for i in range(16)]
    facts = {n: DatasetFacts(n, "f" * 64, 10**8 + 7, 512, 64, 1024) for n in names}
    weights = dict.fromkeys(names, 77)
    phases = tuple(Phase(i * 10**6 * Q, weights) for i in range(16))
    steps = [i * 10_000 for i in range(16)]
    batches, cursor = [], 0
    for step in steps:
        batches.append(Batches(step, cursor, 512 + step // 10_000, 1024))
        cursor += 10_000 * batches[-1].tokens
    state = DataState(7, 4096, "best_fit", facts, phases, tuple(batches), cursor)
    assert len(json.dumps(state.to_dict(), separators=(",", ":"))) < 4096
    assert DataState.from_dict(state.to_dict()) == state


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("cursor"), "cursor is missing"),
        (lambda d: d.update(curser=1), "unknown key curser; did you mean cursor"),
        (lambda d: d.update(cursor=-5), "cursor=-5 must be a whole number of at least 0"),
        (lambda d: d.update(cursor=5.0), "cursor=5.0 must be a whole number"),
        (lambda d: d.update(cursor=True), "cursor=True must be a whole number"),
        (lambda d: d.update(cursor=d["cursor"] + 1), "is not at the end of a step"),
        (lambda d: d.update(row_tokens=0), "row_tokens=0 must be at least 1"),
        (lambda d: d.update(packing=None), "packing=None must be text"),
        (lambda d: d.update(multiset="xyz"), "must be 32 hexadecimal digits"),
        (lambda d: d["skipped"].pop("multiset"), "skipped.multiset is missing"),
        (lambda d: d.update(skipped=[]), r"skipped=\[\] must be an object"),
        (lambda d: d["datasets"].pop("rows"), "datasets.rows is missing"),
        (lambda d: d["datasets"]["rows"].pop(), "the columns of datasets have"),
        (lambda d: d["datasets"]["rows"].insert(0, "7"), "datasets.rows='7' must be a whole"),
        (lambda d: d["datasets"]["name"].__setitem__(0, "code"), "has a name twice"),
        (lambda d: d["phases"]["start"].__setitem__(1, 5), "start=5 must be a multiple of 4096"),
        (lambda d: d["phases"]["start"].pop(), "phases.start and phases.weights differ in length"),
        (lambda d: d["phases"]["weights"][0].pop(), "of 4 datasets"),
        (lambda d: d["phases"]["weights"][0].__setitem__(0, "7"), "wiki.weight=7 must be a whole"),
        (lambda d: d["batches"]["cursor"].__setitem__(1, 7 * R), "don't reach; .* damaged"),
        (lambda d: d["batches"]["step"].__setitem__(0, 1), "must begin at step 0"),
        (lambda d: d["batches"]["global_batch_size"].__setitem__(0, 0), "global_batch_size=0"),
        (lambda d: d["exclusions"]["dataset"].__setitem__(0, "x"), "not a part of one of its"),
    ],
)
def test_a_damaged_state_is_refused(damage, message):
    stored = full_state().to_dict()
    damage(stored)
    with pytest.raises(DataError, match=message):
        DataState.from_dict(stored)


@pytest.mark.parametrize("stored", [None, [], "{}"])
def test_what_is_no_state_is_refused(stored):
    with pytest.raises(DataError, match="must be an object"):
        DataState.from_dict(stored)


# --- going on


def after(rows, **settings):
    """A run that has drawn some rows, one a step."""
    return job(batch=1, **settings).advanced(rows, Multiset())


def test_batches_and_later_phases_may_change():
    stored = after(Q + 5, phases=(START, WITH_LATE))
    third = Phase(2 * Q, {"wiki": 1})
    resumed = resume(stored, job((START, WITH_LATE, third), batch=30, length=16))
    assert resumed.phases == (START, WITH_LATE, third)
    assert resumed.batches[-1] == Batches(Q + 5, (Q + 5) * R, 30, 16)
    assert (resumed.cursor, resumed.multiset) == (stored.cursor, stored.multiset)
    assert resume(stored, job((START, WITH_LATE), batch=1)) == stored
    # A phase that no row was drawn from may still move or go.
    assert resume(after(Q), job((START, WITH_LATE), batch=1)).phases == (START, WITH_LATE)
    assert resume(after(Q, phases=(START, WITH_LATE)), job(batch=1)).phases == (START,)
    # The scale of weights is no difference.
    doubled = Phase(0, {"wiki": 14, "code": 4, "books": 2})
    assert changes(stored, job((doubled, WITH_LATE))) == []


@pytest.mark.parametrize(
    ("rows", "wanted", "message"),
    [
        (5, {"seed": 1}, r"data.seed=1, but the run began with 0"),
        (5, {"packing": "best_fit"}, "data.packing=best_fit, but the run began with chunked"),
        (5, {"row_tokens": 128}, "data.row_tokens=128, but the run began with 64"),
        (
            Q + 1,
            {"phases": (START, Phase(Q, {"code": 1, "late": 4}))},
            "the weights from row 4096 on are code=1, late=4, but code=1, late=3 .*start=8192 on",
        ),
        (
            5,
            {"phases": (Phase(0, {"wiki": 7, "code": 3, "books": 1}), WITH_LATE)},
            "data.datasets.NAME.weight: .* code=3, .* code=2, .* start=4096 on",
        ),
        (2 * Q, {"phases": (START,)}, "start=4096 with code=1, late=3 is part of the past"),
        (
            Q + 1,
            {"phases": (START, WITH_LATE, Phase(2 * Q, {"code": 1}))},
            None,
        ),
        (
            2 * Q + 1,
            {"phases": (START, WITH_LATE, Phase(2 * Q, {"code": 1}))},
            "start=8192 is in the past, the run has drawn 8193 rows; .* have is 12288",
        ),
        (
            2 * Q,
            {"phases": (Phase(0, {"wiki": 7, "code": 2}), WITH_LATE)},
            "dataset books is gone, but the run drew from it; put data.datasets.books back",
        ),
    ],
)
def test_what_would_be_another_stream_is_refused_in_words(rows, wanted, message):
    stored = after(rows, phases=(START, WITH_LATE))
    found = changes(stored, job(**{"phases": (START, WITH_LATE)} | wanted))
    if message is None:
        assert found == []
        return
    with pytest.raises(DataError, match=message):
        resume(stored, job(**{"phases": (START, WITH_LATE)} | wanted))


def test_other_content_or_another_cut_is_refused_with_both_fingerprints():
    stored = after(5)
    facts = stored.datasets["code"]
    other = replace(facts, fingerprint="e" * 64)
    (found,) = changes(stored, replace(job(), datasets={**stored.datasets, "code": other}))
    assert "dataset code has other content" in found
    assert "e" * 12 in found
    assert FINGERPRINTS["code"][:12] in found
    wider = replace(facts, window=32)
    (found,) = changes(stored, replace(job(), datasets={**stored.datasets, "code": wider}))
    assert "windows of 32; the run began with 3001 rows, blocks of 4, 8 lanes, windows of 16" in (
        found
    )
    (found,) = changes(replace(stored, order_version=0), job())
    assert "version 0 of the order" in found


def test_a_sequence_length_that_does_not_divide_the_row_is_refused_with_the_nearest():
    with pytest.raises(DataError, match=r"must divide data.row_tokens=64; nearest: 32, 64"):
        job(length=48)
    with pytest.raises(DataError, match=r"=0 must divide data.row_tokens=64; nearest: 1$"):
        job(length=0)


def test_a_sequence_length_that_the_cursor_forbids_is_refused_with_the_nearest():
    stored = job(batch=1, length=16).advanced(3, Multiset())  # 48 tokens into a row of 64
    with pytest.raises(DataError, match=r"can't go on from token 48, .* both; nearest: 16$"):
        stored.with_batch(1, 32)
    (found,) = changes(stored, job(length=64))
    assert "data.sequence_length=64 can't go on from token 48, which is 48 tokens into" in found
    assert resume(stored, job(length=8)).batches[-1].sequence_length == 8
    assert resume(stored.advanced(1, Multiset()), job(length=64)).cursor == 64


# --- exactly once, under crashes


ATOM = 16  # the shortest sequence of the simulation
BROKEN = {"wiki": range(300, 700)}  # rows that can't be read, found in the middle of the run


def work(state, made, world, micro):
    """One step by all ranks: what they saw (sequence number, stretch), and the sums of each."""
    batch = state.batches[-1]
    L, excluded = batch.sequence_length, {e.dataset for e in state.exclusions}
    groups = np.arange(batch.global_batch_size).reshape(-1, micro)
    seen, trained, skipped = [], Multiset(), Skipped()
    for rank in range(world):
        mine = groups[rank::world].ravel()
        rows, start = np.divmod(state.cursor + mine * L, R)
        draw = made(rows)
        names = [made.names[number] for number in draw.dataset]
        bad = np.array(
            [
                name in excluded and row in BROKEN[name]
                for name, row in zip(names, draw.row, strict=True)
            ]
        )
        sums = []
        for chosen in (~bad, bad):
            own = (draw.epoch[chosen], draw.row[chosen], start[chosen], start[chosen] + L)
            sums.append(Multiset().add(keys(made)[draw.dataset[chosen]], *own))
        trained = trained.combine(*sums[0].sums)
        skipped = Skipped(
            skipped.sequences + int(bad.sum()), skipped.multiset.combine(*sums[1].sums)
        )
        seen += zip(mine.tolist(), names, draw.epoch, draw.row, start, bad, strict=True)
    return [(*s[1:], L) for s in sorted(seen)], trained, skipped


def test_forty_crashes_with_other_workers_and_batches_each_time_lose_and_repeat_nothing():
    rng = random.Random(1)
    phases = (START,)
    disk = json.dumps(job(phases).to_dict())
    log, on_disk, steps = [], 0, [0]  # the log is cut back to what the disk knows
    used = set()
    for restart in range(40):
        stored = DataState.from_dict(json.loads(disk))
        del log[on_disk:]
        del steps[stored.step + 1 :]
        world, micro = rng.randint(1, 16), rng.randint(1, 4)
        batch = world * micro * rng.randint(1, 16)
        common = np.gcd(R, stored.cursor)
        length = rng.choice([n for n in (16, 32, 64, 64, 64) if common % n == 0])
        used.add((world, batch, length))
        if restart in (12, 25):
            begun = -(-stored.cursor // R)
            start = -(-begun // Q) * Q
            weights = {"code": 1, "late": 3} if restart == 12 else {"wiki": 1, "late": 1, "code": 5}
            phases = (*(p for p in phases if p.start < begun), Phase(start, weights))
        made = mixture(phases)
        state = resume(stored, job(phases, batch, length))
        if restart == 20:
            state = state.excluding("wiki", 300 * R, 700 * R)
        for _ in range(rng.randint(1, 12)):
            seen, trained, skipped = work(state, made, world, micro)
            log += seen  # delivered
            if rng.random() < 0.1:
                break  # killed before the commit
            state = state.advanced(1, trained, skipped)
            steps.append(state.cursor)
            if rng.random() < 0.7:
                disk, on_disk = json.dumps(state.to_dict()), len(log)
    del log[on_disk:]
    state = DataState.from_dict(json.loads(disk))
    del steps[state.step + 1 :]
    assert len(used) > 35
    assert len(state.phases) == 3
    assert state.cursor // R > state.phases[-1].start + 500

    # Without any crash: the stream in pieces of the shortest length.
    made = mixture(state.phases)
    atoms = np.arange(0, state.cursor, ATOM)
    draw = made(atoms // R)
    names = [made.names[number] for number in draw.dataset]
    uninterrupted = list(zip(names, draw.epoch, draw.row, atoms % R, strict=True))
    delivered = [
        (name, epoch, row, start + atom)
        for name, epoch, row, start, _, length in log
        for atom in range(0, length, ATOM)
    ]
    assert delivered == uninterrupted
    assert state.covered == expected_multiset(made, keys(made), R, 0, state.cursor)
    assert state.skipped.sequences == sum(bad for *_, bad, _ in log) > 0
    assert state.multiset != state.covered
    assert state.exclusions[0].dataset == "wiki"
    assert [state.cursor_of_step(step) for step in range(len(steps))] == steps
    assert isinstance(state.exclusions[0], Exclusion)
