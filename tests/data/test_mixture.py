"""The mixture against counting by hand, and its past against its future."""

import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.files import DataError
from data.order import Order
from data.order.mixture import MIXTURE_BLOCK, MIXTURE_LANES, Mixture, Phase, check_phases, shares

Q = MIXTURE_BLOCK
SIZES = {"wiki": 1009, "code": 6000, "books": 70, "one": 1}
PHASES = [
    Phase(0, {"wiki": 70, "code": 20, "books": 9}),
    Phase(2 * Q, {"wiki": 1, "code": 1}),
    Phase(3 * Q, {"code": 5}),
    Phase(5 * Q, {"code": 3, "books": 1, "one": 1}),
]


def mixture(phases=PHASES, sizes=SIZES, seed=0):
    named = {name for phase in phases for name in phase.weights}
    orders = {
        name: Order(size, seed, f"{name}\0abc", block=4, lanes=8, window=16)
        for name, size in sizes.items()
        if name in named
    }
    return Mixture(orders, phases, seed)


def drawn(made, start, stop):
    """What stands at positions start..stop, with names."""
    draw = made(np.arange(start, stop))
    names = [made.names[number] for number in draw.dataset]
    return list(zip(names, draw.epoch.tolist(), draw.row.tolist(), strict=True))


weights_of_many = st.lists(st.integers(1, 10**6), min_size=1, max_size=40)


@settings(deadline=None)
@given(weights=weights_of_many, total=st.integers(0, 10**13), step=st.integers(0, 10**5))
def test_shares_add_up_never_fall_and_stay_near_the_weights(weights, total, step):
    first, then = shares(total, weights), shares(total + step, weights)
    assert sum(first) == total
    assert sum(then) == total + step
    assert all(a <= b for a, b in zip(first, then, strict=True))
    bound = math.log2(len(weights)) + 1
    for share, weight in zip(first, weights, strict=True):
        # |share - total * weight / sum| <= bound, in whole numbers
        assert abs(share * sum(weights) - total * weight) <= bound * sum(weights)


def test_a_tiny_weight_is_served():
    assert shares(10**6, [999_999, 1]) == [999_999, 1]
    assert shares(10**9, [10**6] * 999 + [1])[-1] == 1


def test_every_complete_epoch_of_every_dataset_is_there_exactly_once():
    found = drawn(mixture(), 0, 8 * Q)
    assert len(set(found)) == len(found)
    for name, size in SIZES.items():
        of_name = [(epoch, row) for dataset, epoch, row in found if dataset == name]
        complete = len(of_name) // size
        # Blocks hold whole stretches of a dataset's items, so all but the last epoch are complete.
        assert {e for e, _ in of_name} <= set(range(complete + 1))
        for epoch in range(complete):
            assert sorted(row for e, row in of_name if e == epoch) == list(range(size))


@pytest.mark.parametrize("block", range(7))
def test_blocks_hold_exactly_their_share(block):
    made = mixture()
    phase = next(p for p in reversed(PHASES) if p.start <= block * Q)
    names = sorted(phase.weights)
    weights = [phase.weights[name] for name in names]
    length = block * Q - phase.start
    pairs = zip(shares(length, weights), shares(length + Q, weights), strict=True)
    expected = dict(zip(names, (b - a for a, b in pairs), strict=True))
    found = [name for name, _, _ in drawn(made, block * Q, (block + 1) * Q)]
    assert {name: found.count(name) for name in names} == expected


def test_counts_are_those_of_walking_there():
    made = mixture()
    draw = made(np.arange(7 * Q))
    for position in [0, 1, Q - 1, Q, 2 * Q + 17, 3 * Q, 4 * Q + 5, 5 * Q, 6 * Q + 4000, 7 * Q]:
        walked = np.bincount(draw.dataset[:position], minlength=4).tolist()
        assert list(made.counts(position).values()) == walked
    assert made.repetitions(7 * Q)["wiki"] == made.counts(7 * Q)["wiki"] / 1009


def test_position_of_is_the_inverse():
    made = mixture()
    positions = np.random.default_rng(0).choice(8 * Q, 300, replace=False)
    draw = made(positions)
    for i, position in enumerate(positions.tolist()):
        name = made.names[draw.dataset[i]]
        assert made.position_of(name, int(draw.epoch[i]), int(draw.row[i])) == position


def test_position_of_is_the_inverse_far_out_and_among_many():
    sizes = {f"d{i:02}": 10**6 + i for i in range(33)}
    made = mixture([Phase(0, {name: i**3 + 1 for i, name in enumerate(sizes)})], sizes)
    positions = np.random.default_rng(1).integers(0, 10**12, 30)
    draw = made(positions)
    for i, position in enumerate(positions.tolist()):
        name = made.names[draw.dataset[i]]
        assert made.position_of(name, int(draw.epoch[i]), int(draw.row[i])) == position


def test_a_row_that_the_schedule_never_draws_has_no_position():
    made = mixture()
    seen = made.counts(3 * Q)["wiki"]  # rests from there on
    epoch, item = divmod(seen - 1, 1009)
    last, following = made.orders["wiki"](np.array([seen - 1, seen])).tolist()
    assert made.position_of("wiki", epoch, last) < 3 * Q
    assert made.position_of("wiki", epoch + (item == 1008), following) is None
    assert made.position_of("wiki", epoch + 2, 0) is None
    assert made.position_of("one", 10**6, 0) > 5 * Q
    with pytest.raises(DataError, match=r"no dataset wikis; .* did you mean wiki"):
        made.position_of("wikis", 0, 0)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_phase_that_is_appended_leaves_the_past_as_it_was(kept):
    before, after = mixture(PHASES[:kept]), mixture(PHASES)
    boundary = PHASES[kept].start
    assert drawn(before, 0, boundary) == drawn(after, 0, boundary)
    assert drawn(before, boundary, boundary + Q) != drawn(after, boundary, boundary + Q)
    known = before.counts(boundary)
    assert {n: c for n, c in after.counts(boundary).items() if n in known} == known


def test_the_order_in_which_datasets_are_written_down_does_not_matter():
    turned = [Phase(p.start, dict(reversed(p.weights.items()))) for p in PHASES]
    other = mixture(turned, dict(reversed(SIZES.items())))
    assert other.names != mixture().names
    assert drawn(other, 0, 6 * Q) == drawn(mixture(), 0, 6 * Q)


def test_only_the_ratios_of_weights_matter():
    scaled = [Phase(p.start, {n: 6 * w for n, w in p.weights.items()}) for p in PHASES]
    assert drawn(mixture(scaled), 0, 6 * Q) == drawn(mixture(), 0, 6 * Q)


def test_one_dataset_stands_in_its_own_order_and_no_block_is_made():
    made = mixture([Phase(0, {"code": 7})])
    positions = np.random.default_rng(2).integers(0, 10**9, 1000)
    draw = made(positions)
    np.testing.assert_array_equal(draw.row, made.orders["code"](positions))
    np.testing.assert_array_equal(draw.epoch, positions // 6000)
    assert made.position_of("code", int(draw.epoch[0]), int(draw.row[0])) == positions[0]
    assert made.counts(12_345) == {"code": 12_345}
    assert made._block.cache_info().misses == 0


def test_random_access_is_sequential_access():
    sequential = drawn(mixture(), 0, 7 * Q)
    for start in (6 * Q + 4000, 0, 3 * Q - 5, 5 * Q, Q - 1):
        assert drawn(mixture(), start, start + 90) == sequential[start : start + 90]


def test_going_on_costs_one_block_wherever_it_is():
    for position in (5 * Q, 10**6, 10**9, 10**12):
        made = mixture()
        made(np.arange(position // Q * Q, position // Q * Q + 512))
        assert made._block.cache_info().misses == 1


def placed(weights, blocks):
    sizes = {f"d{i}": 10**9 for i in range(len(weights))}
    made = mixture([Phase(0, dict(zip(sizes, weights, strict=True)))], sizes)
    pairs = [made._block(block) for block in blocks]
    return [np.concatenate(parts) for parts in zip(*pairs, strict=True)]


def test_items_keep_to_the_lane_of_their_number():
    _, item = placed([70, 20, 9, 1], range(100, 116))
    lane = np.arange(len(item)) % MIXTURE_LANES
    own = (item % MIXTURE_LANES == lane).mean()
    assert own > 0.98  # 1 / 64 by chance
    # Those without room in their lane stand anywhere in the block, not at its end.
    strays = np.flatnonzero(item % MIXTURE_LANES != lane) % Q / Q
    assert abs(strays.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(strays))


def test_ranks_and_parts_of_a_block_get_each_dataset_in_its_share():
    weights = np.array([50, 25, 24, 1])
    dataset, _ = placed(weights.tolist(), range(64))
    share = weights / weights.sum()

    def error(parts):
        """Largest deviation of a dataset's share over parts (parts, positions)."""
        found = np.array([np.bincount(part, minlength=4) for part in parts]) / parts.shape[1]
        return abs(found - share).max()

    for ranks in (2, 4, 8, 16):
        by_rank = dataset.reshape(-1, ranks).T  # as micro-batches of one sequence are dealt
        # No worse than drawing without plan; by lanes it is in fact much better.
        assert error(by_rank) < 4 * np.sqrt(0.25 / by_rank.shape[1])
    # Over places in a block: its first, second, ... eighth.
    by_part = dataset.reshape(64, 8, -1).transpose(1, 0, 2).reshape(8, -1)
    assert error(by_part) < 4 * np.sqrt(0.25 / by_part.shape[1])
    # In batches of 512 the shares deviate as chance would have it, no more.
    assert error(dataset.reshape(-1, 512)) < 5 * np.sqrt(0.25 / 512)


def test_threads_that_share_a_mixture_get_what_one_reader_gets():
    starts = np.random.default_rng(3).integers(0, 30 * Q, 40).tolist()
    shared = mixture()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda start: drawn(shared, start, start + 64), starts))
    assert found == [drawn(mixture(), start, start + 64) for start in starts]


def test_seeds_give_unrelated_mixtures():
    first, second = (mixture(seed=seed)(np.arange(Q)).dataset for seed in (0, 1))
    share = np.bincount(first) / Q
    same, expected = (first == second).mean(), (share**2).sum()
    assert abs(same - expected) < 6 * np.sqrt(0.25 / Q)


GOLDEN = [
    [("wiki", 0, 216), ("code", 0, 5584)],
    [("books", 5, 66), ("wiki", 2, 263)],
    [("books", 10, 1), ("code", 1, 5666)],
    [("books", 2857094, 54), ("code", 99999, 545)],
]


def test_a_run_that_ends_inside_a_block_has_seen_its_epochs_nearly_in_turn():
    orders = {name: Order(rows, 0, name) for name, rows in (("a", 60), ("b", 30))}
    mixed = Mixture(orders, [Phase(0, {"a": 2, "b": 1})], 0)
    draw = mixed(np.arange(900))
    for number, (rows, epochs) in enumerate(((60, 10), (30, 10))):
        seen = np.bincount(draw.row[draw.dataset == number], minlength=rows)
        # Drawn at random, they would be seen 10 +- 3.2 times.
        assert seen.mean() == pytest.approx(epochs, rel=0.1)
        assert seen.std() < 2


def test_the_mixture_never_changes_between_versions_and_processes():
    # Recorded on purpose: a resumed run must go on in the mixture it began with.
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_mixture as t;"
        "print([t.drawn(t.mixture(), p, p + 2) for p in (0, 4096, 5 * 4096, 10**9)])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert said == {str(GOLDEN)}


A, B = {"a": 1}, {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("rows", "phases", "message"),
    [
        ({"a": 5}, [], "the first phase must start at 0, found no phase"),
        ({"a": 5}, [Phase(Q, A)], "must start at 0, found start=4096"),
        ({"a": 5, "b": 5}, [Phase(0, A), Phase(5000, B)], "start=5000 .* nearest: 4096, 8192"),
        ({"a": 5, "b": 5}, [Phase(0, A), Phase(50, B)], "start=50 .* nearest: 4096$"),
        ({"a": 5}, [Phase(0, A), Phase(2 * Q, A), Phase(Q, A)], "start=4096 must be after"),
        ({"a": 5}, [Phase(0, A), Phase(0, A)], "start=0 must be after the phase before"),
        ({"a": 5}, [Phase(0, {})], "no dataset has a weight at the start"),
        ({"a": 5}, [Phase(0, A), Phase(Q, {})], "the phase at start=4096 has no weights"),
        ({"a": 5}, [Phase(0, {"a": 0})], "data.datasets.a.weight=0 .* data.datasets.a.weight=null"),
        ({"a": 5}, [Phase(0, {"a": -1})], "data.datasets.a.weight=-1 must be a whole number"),
        ({"a": 5}, [Phase(0, {"a": 0.5})], "data.datasets.a.weight=0.5 must be a whole number"),
        ({"a": 5}, [Phase(0, {"a": True})], "data.datasets.a.weight=True must be a whole"),
        ({"a": 5}, [Phase(0, A), Phase(Q, {"a": 0})], "start=4096: weight a=0 .* leave a out"),
        ({"wiki": 5}, [Phase(0, {"wikki": 1})], "names wikki, .* did you mean wiki"),
        ({"a": 5, "b": 5}, [Phase(0, A)], "data.datasets.b is in no phase: set data.datasets.b."),
        ({"a": 0}, [Phase(0, A)], "data.datasets.a has 0 rows"),
    ],
)
def test_a_schedule_that_can_not_be_followed_is_refused(rows, phases, message):
    with pytest.raises(DataError, match=message):
        check_phases(rows, phases)


def test_a_mixture_checks_its_schedule_and_its_positions():
    with pytest.raises(DataError, match=re.escape("nearest: 4096, 8192")):
        mixture([Phase(0, {"wiki": 1}), Phase(4097, {"wiki": 1})])
    with pytest.raises(ValueError, match="position -1 is negative"):
        mixture()(np.array([-1]))
