import hashlib
import os
import random
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.filters.duplicates import NearDuplicates, compared_text, near_duplicates, signatures
from data.filters.rules import rule_of
from data.filters.words import normal_words
from data.records import Record

NEAR = NearDuplicates()


def shingles(text, n=5):
    words = normal_words(text)
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


def jaccard(a, b):
    return len(shingles(a) & shingles(b)) / max(1, len(shingles(a) | shingles(b)))


def earliest_of_groups(count, edges):
    """Slow connected components: the lowest number that each one is connected with."""
    label = list(range(count))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            low = min(label[a], label[b])
            changed |= label[a] != low or label[b] != low
            label[a] = label[b] = low
    return {k: label[k] for k in range(count) if label[k] != k}


def corpus(seed, copies=12):
    """Texts of 200 words, some of them copies with at most 1 or at least 60 words changed."""
    draw = random.Random(seed)
    texts = [[f"w{draw.randrange(5000)}" for _ in range(200)] for _ in range(12)]
    for number in range(copies):
        copy = list(draw.choice(texts[:12]))
        for _ in range(1 if number % 2 else 60):
            copy[draw.randrange(200)] = f"x{draw.randrange(5000)}"
        texts.append(copy)
    draw.shuffle(texts)
    return [" ".join(words) for words in texts]


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_those_of_exact_jaccard_when_similarities_are_clear(seed):
    texts = corpus(seed)
    pairs = [(a, b) for a in range(len(texts)) for b in range(a)]
    similarity = {pair: jaccard(texts[pair[0]], texts[pair[1]]) for pair in pairs}
    assert all(s < 0.6 or s > 0.9 for s in similarity.values())
    expected = earliest_of_groups(len(texts), [p for p in pairs if similarity[p] > 0.8])
    (found,) = near_duplicates([signatures(texts, NEAR)], NEAR)
    assert {row: original for row, (_, original) in found.items()} == expected
    assert expected


def test_equal_slots_estimate_the_jaccard_similarity():
    # 0.5 / sqrt(P) bounds the standard error; of 60 pairs none may be 4.5 of them off.
    draw = random.Random(0)
    error = []
    for _ in range(60):
        words = [f"w{draw.random()}" for _ in range(300)]
        other = [w if draw.random() < 0.97 else f"x{draw.random()}" for w in words]
        a, b = " ".join(words), " ".join(other)
        left, right = signatures([a, b], NEAR)
        error.append((left == right).mean() - jaccard(a, b))
    assert max(map(abs, error)) < 4.5 * 0.5 / 128**0.5
    assert abs(np.mean(error)) < 4.5 * 0.5 / 128**0.5 / 60**0.5


def small_signatures(rows):
    """Signatures of few different numbers, so that bands and groups meet in every way."""
    return np.array(rows, dtype=np.uint32).reshape(-1, 16)


SMALL = rule_of(NearDuplicates, {"permutations": 16, "threshold": 0.7}, "x")
drawn_rows = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 15), max_size=6), st.integers(0, 99)),
    max_size=14,
).map(
    lambda items: [
        [99 + mark if k in changed else base for k in range(16)] for base, changed, mark in items
    ]
)


@settings(max_examples=200)
@given(drawn_rows)
def test_groups_are_those_of_a_slow_search_over_all_candidates(rows):
    bands = [slice(b * SMALL.rows, (b + 1) * SMALL.rows) for b in range(SMALL.bands)]
    edges = [
        (a, b)
        for a in range(len(rows))
        for b in range(a)
        if any(rows[a][band] == rows[b][band] for band in bands)
        and np.mean(np.array(rows[a]) == np.array(rows[b])) >= SMALL.threshold
    ]
    (found,) = near_duplicates([small_signatures(rows)], SMALL)
    assert found == {k: (0, v) for k, v in earliest_of_groups(len(rows), edges).items()}


@given(drawn_rows, st.lists(st.integers(0, 14), max_size=4))
def test_how_the_input_was_cut_into_units_does_not_matter(rows, cuts):
    bounds = sorted([0, *(min(c, len(rows)) for c in cuts), len(rows)])
    units = [rows[a:b] for a, b in pairwise(bounds)]  # some may be empty
    found = near_duplicates([small_signatures(unit) for unit in units], SMALL)
    counted = {
        bounds[unit] + row: bounds[original[0]] + original[1]
        for unit, copies in enumerate(found)
        for row, original in copies.items()
    }
    (whole,) = near_duplicates([small_signatures(rows)], SMALL)
    assert counted == {row: original for row, (_, original) in whole.items()}


def test_a_signature_depends_on_its_text_alone():
    texts = [*corpus(0), "", "one", "two words", "?!", "漢字を読む"]
    together = signatures(texts, NEAR)
    apart = np.concatenate([signatures([text], NEAR) for text in texts])
    assert np.array_equal(together, apart)
    assert together.shape == (len(texts), 128)
    assert together.dtype == np.uint32


def test_signatures_are_the_same_in_every_process_and_with_every_kernel():
    code = (
        "import sys, hashlib; from data.filters.duplicates import NearDuplicates, signatures;"
        "texts = [' '.join(f'w{i * k % 97}' for i in range(40 * k)) for k in range(1, 40)];"
        "print(hashlib.sha256(signatures(texts, NearDuplicates()).tobytes()).hexdigest())"
    )
    digests = set()
    for seed, kernel in (("0", "scalar"), ("1", "auto")):
        own = {"PYTHONHASHSEED": seed, "RENSA_FORCE_KERNEL": kernel, "RAYON_NUM_THREADS": "2"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | own, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    texts = [" ".join(f"w{i * k % 97}" for i in range(40 * k)) for k in range(1, 40)]
    here = signatures(texts, NEAR)
    assert digests == {hashlib.sha256(here.tobytes()).hexdigest() + "\n"}
    # Golden: another machine, or another version of the sketches, must not go unnoticed.
    assert hashlib.sha256(here.astype("<u4").tobytes()).hexdigest()[:16] == "adbd92b8d97f391a"


def test_texts_without_words_are_no_copies_of_each_other():
    (found,) = near_duplicates([signatures(["?!", "", "...", "a", "A."], NEAR)], NEAR)
    assert found == {4: (0, 3)}


def test_a_chain_of_copies_leaves_its_earliest_record():
    base = list(range(16))
    rows = [base[:k] + [99] * (16 - k) for k in (16, 12, 9)]  # 1~2, 2~3, but not 1~3
    (found,) = near_duplicates([small_signatures(rows)], SMALL)
    assert found == {1: (0, 0), 2: (0, 0)}


def test_a_large_bucket_is_searched_for_the_groups_in_it():
    # 300 records share one band; behind it stand 3 groups, interleaved.
    rows = [[7] * SMALL.rows + [group + 10] * (16 - SMALL.rows) for group in (0, 1, 2)] * 100
    (found,) = near_duplicates([small_signatures(rows)], SMALL)
    assert {row % 3 for row in (set(range(300)) - set(found))} == {0, 1, 2}
    assert all(original == (0, row % 3) for row, original in found.items())


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("permutations", [16, 128, 256])
def test_bands_find_pairs_at_the_threshold_unless_no_bands_could(threshold, permutations):
    rule = NearDuplicates(threshold=threshold, permutations=permutations)
    met = 1 - (1 - threshold**rule.rows) ** rule.bands
    assert met >= 0.99 or rule.rows == 1
    assert rule.rows * rule.bands <= permutations


def test_no_records_and_empty_units_are_fine():
    assert near_duplicates([], NEAR) == []
    empty = signatures([], NEAR)
    assert near_duplicates([empty, signatures(["a b"], NEAR), empty], NEAR) == [{}, {}, {}]


def test_signatures_may_be_memory_maps(tmp_path):
    texts = corpus(1)
    np.save(tmp_path / "0.npy", signatures(texts, NEAR))
    mapped = np.load(tmp_path / "0.npy", mmap_mode="r")
    assert near_duplicates([mapped], NEAR) == near_duplicates([signatures(texts, NEAR)], NEAR)


def test_the_texts_of_a_pair_are_compared_together():
    assert compared_text(Record(("a", "b"), "p")) == "a\nb"
