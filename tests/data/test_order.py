"""The order against a slow scalar reading of its definition, and as a shuffle."""

import hashlib
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.order import Order, shuffled
from data.order.permutation import Permutation

MASK = 2**64 - 1


def mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def words(key, count):
    digests = [hashlib.blake2b(i.to_bytes(8, "little"), key=key).digest() for i in range(count)]
    return [int.from_bytes(d[:8], "little") for d in digests]


def sub_key(key, purpose, *numbers):
    message = purpose.encode() + b"".join(n.to_bytes(8, "little") for n in numbers)
    return hashlib.blake2b(message, key=key, digest_size=32).digest()


def slow_shuffled(key, size):
    a, b = words(key, 2)
    return sorted(range(size), key=lambda i: mix((mix(i ^ a) + b) & MASK))


def slow_epoch(N, seed, fingerprint, b, C, w, epoch):
    """The permutation of one epoch by building each line whole."""
    identity = f"1\0{fingerprint}\0{seed}\0{N}\0{b}\0{C}\0{w}".encode()
    key = hashlib.blake2b(identity, digest_size=32).digest()
    blocks = [list(range(start, min(start + b, N))) for start in range(0, N, b)]
    line = [
        sample
        for block in slow_shuffled(sub_key(key, "blocks", epoch), len(blocks))
        for sample in blocks[block]
    ]
    lanes, start = [], 0
    for lane in range(C):
        size = N // C + (lane < N % C)
        part, start = line[start : start + size], start + size
        if w > 1:
            part = [
                part[v * w + i]
                for v in range(-(-size // w))
                for i in slow_shuffled(sub_key(key, "window", epoch, lane, v), min(w, size - v * w))
            ]
        lanes.append(part)
    return [lanes[i % C][i // C] for i in range(N)]


@pytest.mark.parametrize("N", [1, 2, 3, 7, 16, 31])
def test_the_order_is_its_definition_and_a_bijection_with_an_inverse_on_a_grid(N):
    for b, C, w in itertools.product([1, 2, 5, 8, 40], [1, 2, 3, 7], [1, 2, 4, 50]):
        made = Order(N, 5, "abc", block=b, lanes=C, window=w)
        for epoch in (0, 3):
            ids = made(np.arange(epoch * N, (epoch + 1) * N)).tolist()
            assert sorted(ids) == list(range(N)), (N, b, C, w)
            assert ids == slow_epoch(N, 5, "abc", b, C, w, epoch), (N, b, C, w)
            back = made.inverse(np.array(ids), epoch).tolist()
            assert back == list(range(N)), (N, b, C, w)


@settings(max_examples=80, deadline=None)
@given(
    N=st.integers(1, 3000),
    b=st.integers(1, 70),
    C=st.integers(1, 70),
    w=st.integers(1, 300),
    epoch=st.integers(0, 2**40),
    feistel=st.booleans(),
)
def test_any_order_is_a_bijection_with_an_inverse(N, b, C, w, epoch, feistel):
    with pytest.MonkeyPatch.context() as patch:
        if feistel:
            patch.setattr("data.order.permutation.FULL_SORT", 0)
        made = Order(N, 3, "f", block=b, lanes=C, window=w)
        ids = made(np.arange(epoch * N, (epoch + 1) * N))
        assert (np.sort(ids) == np.arange(N)).all()
        assert (made.inverse(ids, epoch) == np.arange(N)).all()


@pytest.mark.parametrize("shape", [{}, {"block": 512, "lanes": 64, "window": 1024}])
def test_an_order_of_2_to_the_40_inverts_and_its_tail_block_too(shape):
    N = 2**40 - 87
    made = Order(N, 3, "f", **shape)
    x = np.random.default_rng(4).integers(0, N, 2000)
    ids = made(x + 2 * N)
    assert ids.min() >= 0
    assert ids.max() < N
    np.testing.assert_array_equal(made.inverse(ids, 2), x)
    last = np.arange(N - 600, N)
    np.testing.assert_array_equal(made(made.inverse(last, 2) + 2 * N), last)


def test_random_access_is_sequential_access_over_epochs():
    made = Order(1000, 1, "f", block=16, lanes=8, window=32)
    sequential = np.concatenate([made(np.arange(i, i + 50)) for i in range(0, 5000, 50)])
    positions = np.random.default_rng(0).permutation(5000)
    np.testing.assert_array_equal(
        Order(1000, 1, "f", block=16, lanes=8, window=32)(positions), sequential[positions]
    )


@pytest.mark.parametrize("size", [1, 2, 5, 255, 256, 2**16, 2**16 + 1, 100_003, 2**17])
def test_permutations_of_both_kinds_are_bijections_with_an_inverse(size):
    permutation = Permutation(b"key", size)
    x = np.arange(size)
    y = permutation(x)
    np.testing.assert_array_equal(np.sort(y), x)
    np.testing.assert_array_equal(permutation.inverse(y), x)


def test_the_feistel_network_is_a_bijection_on_small_domains_too(monkeypatch):
    monkeypatch.setattr("data.order.permutation.FULL_SORT", 0)
    for size in range(1, 130):
        permutation = Permutation(b"key", size)
        y = permutation(np.arange(size))
        assert sorted(y.tolist()) == list(range(size))
        np.testing.assert_array_equal(permutation.inverse(y), np.arange(size))


def test_a_permutation_of_2_to_the_40_inverts():
    permutation = Permutation(b"key", 2**40 - 87)
    x = np.random.default_rng(1).integers(0, 2**40 - 87, 10_000)
    y = permutation(x)
    assert y.max() < 2**40 - 87
    np.testing.assert_array_equal(permutation.inverse(y), x)


def test_the_feistel_round_moves_each_output_bit_with_each_input_bit():
    permutation = Permutation(b"key", 2**20)
    x = np.random.default_rng(2).integers(0, 2**20, 20_000)
    y = permutation(x)
    for bit in range(20):
        changed = y ^ permutation(x ^ (1 << bit))
        shares = [(changed >> out & 1).mean() for out in range(20)]
        # Standard error 0.0035; six of them over 400 pairs.
        assert max(abs(share - 0.5) for share in shares) < 0.022


def test_a_feistel_shuffle_has_as_many_different_steps_as_a_true_one():
    size = 200_000

    def different(ids):
        return len(np.unique(np.diff(ids)))

    true = different(np.random.default_rng(3).permutation(size))
    ours = different(Permutation(b"key", size)(np.arange(size)))
    assert abs(ours - true) < 0.005 * true


def test_no_output_bit_is_told_by_an_input_bit():
    # An affine round function fails here: it decides the lowest bit by one bit of the input.
    N = 2**18
    x = np.arange(N)
    y = Order(N, 0, "f")(x)
    signs = [1.0 - 2 * (values[:, None] >> np.arange(18) & 1) for values in (x, y)]
    correlation = signs[0].T @ signs[1] / N
    assert abs(correlation).max() < 6 / np.sqrt(N)


@pytest.mark.parametrize("shape", [{}, {"block": 16, "lanes": 64, "window": 64}])
def test_neighbours_in_time_are_not_neighbours_in_the_data(shape):
    N = 2**18
    ids = Order(N, 0, "f", **shape)(np.arange(N)).astype(float)
    for lag in (1, 2, 3, 7, 31, 63):
        # Blocks are moved whole, so there are as many independent places as blocks.
        deviation = np.sqrt(shape.get("block", 1) / N)
        assert abs(np.corrcoef(ids[:-lag], ids[lag:])[0, 1]) < 6 * deviation, lag


def test_samples_of_a_batch_share_a_shard_no_more_often_than_declared():
    N, shard, block, lanes, window, B = 2**21, 4096, 512, 64, 4096, 512
    ids = Order(N, 0, "f", block, lanes, window)(np.arange(100 * B)).reshape(-1, B)
    counts = [np.unique(batch // shard, return_counts=True)[1] for batch in ids]
    rate = np.mean([(n * (n - 1)).sum() / (B * (B - 1)) for n in counts])
    # Of one lane: the same one of the window's blocks. Of two lanes: chance, as in a full shuffle.
    same_lane = (B / lanes - 1) / (B - 1)
    bound = same_lane * block / window + shard / N
    assert rate < 1.25 * bound
    assert rate < 0.006


@pytest.mark.parametrize("blocks", [{}, {"block": 2, "lanes": 2, "window": 4}])
def test_first_places_are_uniform_over_keys(blocks):
    N, keys = 16, 4000
    seen = np.zeros((N, N))
    for seed in range(keys):
        seen[np.arange(N), Order(N, seed, "f", **blocks)(np.arange(N))] += 1
    expected = keys / N
    chi2 = ((seen - expected) ** 2 / expected).sum() / (N - 1) ** 2
    # Mean 1 and deviation about 0.13 for one-sample blocks; samples of a block are not
    # independent, which widens it.
    assert 0.6 < chi2 < 1.5


def test_small_permutations_reach_all_arrangements_equally():
    keys = 6000
    found = [tuple(shuffled(seed.to_bytes(4, "big"), 4).tolist()) for seed in range(keys)]
    counts = [found.count(p) for p in itertools.permutations(range(4))]
    chi2 = sum((c - keys / 24) ** 2 / (keys / 24) for c in counts)
    assert chi2 < 49.7  # 99.9th percentile with 23 degrees of freedom


def test_epochs_seeds_and_fingerprints_give_unrelated_orders():
    N = 5000
    first = Order(N, 0, "f")
    others = [
        first(np.arange(N, 2 * N)),  # next epoch
        Order(N, 1, "f")(np.arange(N)),
        Order(N, 1, "f")(np.arange(N, 2 * N)),
        Order(N, 0, "g")(np.arange(N)),
    ]
    orders = [first(np.arange(N)), *others]
    for a, b in itertools.combinations(orders, 2):
        assert (a == b).sum() < 12  # one fixed point expected; 12 has a chance of 1e-9
        assert abs(np.corrcoef(a, b)[0, 1]) < 6 / np.sqrt(N)


def test_the_order_does_not_depend_on_the_process():
    code = (
        "import numpy as np; from data.order import Order;"
        "print(Order(70_001, 3, 'f', 4, 8, 16)(np.arange(69_990, 70_020)).tolist())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(said) == 1


def test_threads_that_share_an_order_get_what_one_reader_gets():
    shape = {"block": 16, "lanes": 8, "window": 32}
    batches = np.random.default_rng(5).integers(0, 10**6, (64, 100))
    alone = [Order(100_003, 3, "f", **shape)(batch).tolist() for batch in batches]
    shared = Order(100_003, 3, "f", **shape)
    with ThreadPoolExecutor(8) as threads:
        assert [ids.tolist() for ids in threads.map(shared, batches)] == alone


def test_the_first_batch_costs_the_same_wherever_a_run_goes_on():
    N = 10**9 + 7
    for position in (0, 10**6, 10**9, 7 * N + 10**8):
        made = Order(N, 7, "f", block=512, lanes=64, window=1024)
        made(np.arange(position, position + 512))
        # The windows of all lanes; twice where the batch crosses into the next one or epoch.
        assert 1 <= made._windows.cache_info().misses <= 2
        assert made._blocks.cache_info().misses <= 2


def test_the_order_never_changes_between_versions():
    # Recorded on purpose: a resumed run must go on in the order it began with.
    assert Order(10, 0, "golden")(np.arange(20)).tolist() == GOLDEN_SMALL
    big = Order(10**9 + 7, 7, "golden", block=512, lanes=64, window=1024)
    assert big(np.array([0, 1, 64, 5 * 10**8, 10**9 + 6, 10**9 + 7])).tolist() == GOLDEN_BIG


GOLDEN_SMALL = [9, 5, 0, 1, 4, 2, 3, 6, 8, 7, 9, 4, 2, 5, 0, 3, 1, 8, 7, 6]
GOLDEN_BIG = [538863273, 310124934, 538863413, 359527256, 694307153, 893424971]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples=0 must be at least 1"),
        ({"samples": 5, "block": 0}, "block=0"),
        ({"samples": 5, "lanes": 0}, "lanes=0"),
        ({"samples": 5, "window": 0}, "window=0"),
    ],
)
def test_senseless_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Order(seed=0, fingerprint="f", **arguments)


def test_a_negative_position_is_refused():
    with pytest.raises(ValueError, match="position -3 is negative"):
        Order(5, 0, "f")(np.array([2, -3]))


@pytest.mark.parametrize(
    ("ids", "epoch", "message"),
    [
        ([2, 5], 0, "sample 5 must be from 0 to 4"),
        ([-1], 0, "sample -1 must be from 0 to 4"),
        ([1], -1, "epoch -1 is negative"),
    ],
)
def test_an_inverse_of_what_is_not_there_is_refused(ids, epoch, message):
    with pytest.raises(ValueError, match=message):
        Order(5, 0, "f").inverse(np.array(ids), epoch)


def test_nothing_is_asked_and_nothing_given():
    nothing = np.array([], dtype=np.int64)
    made = Order(5, 0, "f", block=2, lanes=2, window=2)
    assert made(nothing).tolist() == made.inverse(nothing, 0).tolist() == []
