"""Word vectors: their words, pairs and job; search by pooled vectors."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from orchestrator.stages.embed import looking, pictures
from orchestrator.stages.embed.pairs import Pairs
from orchestrator.stages.embed.words import thinned
from orchestrator.stages.pooling import mean_of_words, similarities
from tests.orchestrator.typed import refused, trained, typed

TWINS = (("cat", "dog"), ("red", "blue"), ("run", "walk"), ("one", "two"))


def pairs_of(numbers, documents, counts, **more):
    settings = {"window": 2, "negatives": 3, "together": False, "key": "k"} | more
    arrays = (np.array(own) for own in (numbers, documents, counts))
    return Pairs(*arrays, **settings)


def test_negatives_are_drawn_as_counts_to_the_three_quarters():
    counts = np.array([900, 300, 100, 40, 5])
    drawn = pairs_of([0], [0], counts).draw(10, np.arange(4000))
    expected = counts**0.75 / (counts**0.75).sum() * drawn.size
    assert chisquare(np.bincount(drawn.ravel(), minlength=5), expected).pvalue > 0.01


def test_words_are_thinned_by_the_root_of_their_frequency():
    counts = np.array([80_000, 19_900, 100])
    numbers = np.repeat(np.arange(3), counts)
    kept = np.bincount(numbers[thinned(numbers, counts, 0.05, "k")], minlength=3)
    expected = counts * np.minimum(1, np.sqrt(0.05 / (counts / counts.sum())))
    np.testing.assert_allclose(kept, expected, rtol=0.03)
    assert kept[2] == 100


def test_neighbours_are_within_the_drawn_window_and_the_document():
    numbers, documents = np.arange(30) % 11, np.arange(30) // 8
    own = pairs_of(numbers, documents, np.ones(11), window=3)
    rows, ids = np.arange(30), np.arange(100, 130)
    batch = own.batch(rows, ids, rows != 4)
    reaches = []
    for row in range(30):
        there = batch.mask[row].nonzero()[0]
        offsets = np.array([-3, -2, -1, 1, 2, 3])[there]
        assert batch.neighbours[row][there].tolist() == [numbers[row + o] for o in offsets]
        if row == 4:
            assert not len(there), "what fills a batch up has no pairs"
            continue
        reach = max(abs(offsets), default=0)
        reaches.append(reach)
        inside = [
            o for o in (-3, -2, -1, 1, 2, 3)
            if abs(o) <= reach and 0 <= row + o < 30 and documents[row + o] == documents[row]
        ]  # fmt: skip
        assert offsets.tolist() == inside
    assert set(reaches) == {1, 2, 3}
    assert batch.weight == batch.mask.sum()
    again = own.batch(rows[7:9], ids[7:9], np.array([True, True]))
    assert np.array_equal(again.negatives, batch.negatives[7:9]), "whatever the batch"
    assert np.array_equal(again.mask, batch.mask[7:9])


def test_an_analogy_of_exact_vectors_is_answered_and_unknown_words_are_counted(tmp_path):
    words = ("king", "man", "woman", "queen", "apple")
    vectors = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0.1, 1, 1], [0, -1, 0]], dtype=np.float32)
    file = tmp_path / "questions.txt"
    file.write_text(
        ": family\nman king woman queen\nman king woman apple\nman king woman unknown\n"
    )
    found = looking.analogies(words, vectors, looking.read_questions(str(file)))
    assert found == {"family": (1, 2, 1)}
    file.write_text("a b c\n")
    with pytest.raises(ValueError, match="line 1 has 3 words, and a question has four"):
        looking.read_questions(str(file))


def test_random_vectors_are_as_orthogonal_as_their_dimension_says_and_sums_lose_what_they_hold():
    theory = np.array(pictures.DIMENSIONS) ** -0.5
    np.testing.assert_allclose(pictures.cosine_stds(0), theory, rtol=0.06)
    shares = pictures.recovered(0)
    assert (shares[:, -1] > 0.9).all()
    assert (shares[:, 0] < 0.2).all()
    assert (np.diff(shares, axis=0)[:, 5:] <= 0.03).all(), "the more are added, the less is told"


def test_the_vector_of_a_text_is_the_mean_of_its_words_and_a_common_direction_is_left_out():
    table = np.array([[2, 0], [0, 3]], dtype=np.float32)
    found = mean_of_words(["A b! unknown", "unknown"], ["a", "b"], table)
    np.testing.assert_allclose(found, [[0.5, 0.5], [0, 0]])
    texts = np.array([[10, 1], [10, -1], [10, 0.5]], dtype=np.float32)
    assert similarities(np.array([10, 0.9], dtype=np.float32), texts).argmax() in (0, 2)
    assert similarities(np.array([10, -0.9], dtype=np.float32), texts)[0] < 0


@pytest.fixture(scope="module")
def corpus_of_twins(tmp_path_factory):
    """Documents in which the words of a pair have the same neighbours, and other pairs others."""
    folder, draw = tmp_path_factory.mktemp("twins"), random.Random(0)
    for number in range(60):
        words = []
        for _ in range(60):
            pair = draw.randrange(len(TWINS))
            around = [f"{'abcd'[pair]}{draw.choice('xyzuvw')}" for _ in range(4)]
            words += [*around[:2], draw.choice(TWINS[pair]), *around[2:]]
        (folder / f"{number:02}.txt").write_text(" ".join(words))
    return folder


def test_words_with_the_same_neighbours_become_alike_also_over_a_resume(
    corpus_of_twins, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = (
        "stage=embed", f"stage.data={corpus_of_twins}", "stage.subsample=1", "model.width=16",
        "stage.global_batch_size=128", "stage.checkpoint_every=60", "stage.evaluate_every=60",
        "optim.learning_rate=2e-2", "optim.warmup_steps=5", "stage.window=2", "stage.nearest=[cat]",
        "resources=inline", "engine=torch", "engine.precision=fp32", "tracking=none",
    )  # fmt: skip
    monkeypatch.setattr(pictures, "draw_map", lambda *_: Path(_[-1]).write_bytes(b""))
    found = []
    for family in ("skipgram", "cbow"):
        answer = typed("run", *words, "stage.steps=120", f"model={family}")
        assert answer.code == 0, answer
        run = Path("outputs/latest").resolve()
        table = json.loads((run / "nearest.json").read_text())
        assert "dog" in str(table).split("0.")[0], table
        metrics = json.loads((run / "result.json").read_text())["metrics"]
        assert metrics["validation/loss"] < 0.8 * metrics["validation/chance"]
        assert metrics["validation/ranked_first"] > 0.5
        found.append((run, metrics["validation/loss"]))
    assert (run / "projector/metadata.tsv").read_text().split()[:2]
    assert len((run / "projector/vectors.tsv").read_text().splitlines()[0].split("\t")) == 16
    half = typed("run", f"resume={found[0][0]}/checkpoints/step_00000060", "tracking=none")
    assert half.code == 0, half
    again = json.loads(Path("outputs/latest/result.json").read_text())["metrics"]
    assert again["validation/loss"] == found[0][1], "bit for bit"
    Path("lines.txt").write_text("one two one\n\ncat cat\nred blue red\n")
    answer = typed("search", str(found[0][0]), "--file", "lines.txt", "the dog", "--count", "1")
    assert answer.code == 0, answer
    assert answer.out.split()[1:] == ["cat", "cat"]
    assert "no word of 'zzz' has a vector" in refused(
        "search", str(found[0][0]), "--file", "lines.txt", "zzz"
    )
    for setting, said in (
        ("stage.nearest=[unicorn]", "stands in the text less than stage.min_count=5 times"),
        ("stage.min_count=99999", "stage.min_count=99999 and stage.words=10000 leave 0 of"),
        ("model=gpt_tiny", "has no vectors of words; try model=skipgram"),
        ("stage.analogies=nowhere.txt", "stage.analogies=nowhere.txt is no file"),
        ("stage.subsample=2", "must be above 0 and at most 1"),
    ):
        assert said in refused("run", *words, setting)


def test_lines_are_found_by_the_pooled_vectors_of_a_language_model(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = str(trained(corpus))
    Path("lines.txt").write_text("The seed drops the cache.\nThe model reads the token.\n\n" * 2)
    answer = typed("search", run, "--file", "lines.txt", "The model reads the token.")
    assert answer.code == 0, answer
    assert answer.out.splitlines()[0].split(maxsplit=1)[1] == "The model reads the token."
    assert "can't be read" in refused("search", run, "--file", "nowhere.txt", "query")
