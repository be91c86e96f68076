from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics
from sklearn.datasets import load_digits

from data.files import DataError
from data.order import Order
from orchestrator.stages.classify import confusion
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.stages.examples.feeding import evaluation, steps
from orchestrator.stages.features.sources import read_examples
from orchestrator.stages.features.splits import publish_examples, row_hashes
from orchestrator.stages.features.tables import Examples

GOOD = {"a": [1.5, 2.0, -0.0, 4.0], "b": [1, 0, 2, 3], "kind": [0, 1, 2, 1]}

BILL = "bill_length_mm"


def read(tmp_path, columns=GOOD, **settings):
    """The examples of a CSV file with these columns."""
    path = tmp_path / "table.csv"
    rows = [columns, *zip(*columns.values(), strict=True)]
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    stage = ClassifyConfig(data=str(path), **{"label": "kind"} | settings)
    return read_examples(stage, classes=True)


def made_up(count, seed=0):
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 3)) * [1, 100, 0] + [0, 5, 7]
    labels = draw.integers(0, 4, count)
    return Examples("made up", None, ("x", "y", "z"), features, labels, tuple("0123"))


def test_digits_are_those_of_scikit_learn():
    found, theirs = read_examples(ClassifyConfig(), classes=True), load_digits()
    assert np.array_equal(found.features, theirs.data)
    assert np.array_equal(found.targets, theirs.target)
    assert found.names[1] == "pixel_0_1"


def test_a_table_gives_its_columns_in_any_format(tmp_path):
    from_csv = read(tmp_path)
    assert from_csv.names == ("a", "b")
    assert from_csv.features.tolist() == [[1.5, 1.0], [2.0, 0.0], [0.0, 2.0], [4.0, 3.0]]
    assert from_csv.targets.tolist() == [0, 1, 2, 1]
    pq.write_table(pa.table(GOOD), tmp_path / "table.parquet")
    stage = ClassifyConfig(data=str(tmp_path / "table.parquet"), label="kind", features=["b", "a"])
    from_parquet = read_examples(stage, classes=True)
    assert np.array_equal(from_parquet.features[:, ::-1], from_csv.features)
    switches = read(tmp_path, {**GOOD, "b": ["true", "false", "true", "true"]})
    assert switches.features[:, 1].tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (
            {},
            {"label": None},
            "needs the column of its labels; add stage.label=COLUMN, one of a",
        ),
        ({}, {"label": "knd"}, "stage.label: .* has no column knd; did you mean kind?"),
        ({}, {"features": ["a", "c"]}, "stage.features: .* has no column c.*; it has a, b, kind"),
        ({}, {"features": ["a", "kind"]}, "stage.features has kind, which is the label"),
        ({"b": ["x", "y", "z", "w"]}, {}, r"column b has 4 different .*stage.features=\[A,B\]"),
        ({"b": [1, "", 2, ""]}, {}, "column b: a feature is missing in 2 rows, first in row 2"),
        ({"b": [1, 2, "inf", 4]}, {}, "column b: a feature is not finite in 1 row"),
        ({"kind": [0, 1, "", 1]}, {}, "column kind: a label is missing in 1 row, first in row 3"),
        ({"kind": ["p", "q", "", "q"]}, {}, "column kind: a label is missing in 1 row"),
        (
            {"kind": [0, 1.5, 1, 0]},
            {},
            "column kind must hold a text or .*; row 2 has 1.5",
        ),
        (
            {"kind": [0, 1, 1, -1]},
            {},
            "column kind must hold a text or .*; row 4 has -1",
        ),
        ({"kind": [1, 1, 1, 1]}, {}, "all 4 examples have the label 1; .* at least two labels"),
    ],
)
def test_a_table_that_nothing_can_be_learned_from_is_refused(tmp_path, columns, settings, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        read(tmp_path, {**GOOD, **columns}, **settings)


def test_texts_are_categories_and_what_is_missing_is_refused_dropped_or_filled_in(tmp_path):
    columns = {
        "island": ["east", "west", "west", "NA", "east"],
        "mass": [1.0, "", 3.0, 5.0, 2.0],
        "sex": ["m", "f", "m", "m", "f"],
        "kind": ["gentoo", "adelie", "gentoo", "adelie", "adelie"],
    }
    with pytest.raises(ValueError, match=r"column island: .* missing in 1 row, first in row 4; .*"):
        read(tmp_path, columns, features=["island"])
    dropped = read(tmp_path, columns, missing="drop", features=["mass", "sex"])
    assert dropped.names == ("mass", "sex=m")
    assert dropped.features.tolist() == [[1, 1], [3, 1], [5, 1], [2, 0]]
    assert (dropped.classes, dropped.left_out) == (("adelie", "gentoo"), 1)
    assert dropped.targets.tolist() == [1, 1, 0, 0]
    filled = read(tmp_path, columns, missing="mean", features=["mass"])
    assert filled.names == ("mass", "mass is missing")
    rows = np.arange(5)
    filled = replace(filled, split=(rows, rows))
    published = publish_examples(filled, 0.5, 0, tmp_path)
    train = published.open("train", tmp_path)
    assert published.standard.mean == pytest.approx(((1 + 3 + 5 + 2) / 4, 1 / 5))
    assert train.features[1].tolist() == [0, pytest.approx(2)], "the mean, as the model sees it"
    with pytest.raises(ValueError, match=r"stage\.scaling=none keeps zero where it is"):
        publish_examples(filled, 0.5, 0, None, "none")


def test_penguins_are_read_from_their_package_without_importing_it():
    pytest.importorskip("palmerpenguins")
    found = read_examples(ClassifyConfig(data="penguins", missing="drop"), classes=True)
    assert found.classes == ("Adelie", "Chinstrap", "Gentoo")
    assert (len(found.targets), found.left_out) == (333, 11)
    assert np.bincount(found.targets).tolist() == [146, 68, 119]
    assert found.names[:4] == (*(f"island={o}" for o in ("Biscoe", "Dream", "Torgersen")), BILL)


def test_a_table_that_is_not_there_or_has_nothing_in_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"stage\.data=no\.csv is no file"):
        read_examples(ClassifyConfig(data="no.csv", label="kind"), classes=True)
    with pytest.raises(ValueError, match="has no rows"):
        read(tmp_path, {"a": [], "kind": []})
    with pytest.raises(ValueError, match="has no column but the label"):
        read(tmp_path, {"kind": [0, 1]})
    path = tmp_path / "twice.csv"
    path.write_text("a,a,kind\n1,2,0\n3,4,1\n")
    with pytest.raises(ValueError, match="2 columns a; rename"):
        read_examples(ClassifyConfig(data=str(path), label="kind"), classes=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_fraction": 1.0}, "stage.validation_fraction=1.0 must lie between 0 and 1"),
        ({"label": "kind"}, "stage.label=kind is of a table, and stage.data=digits is none"),
        ({"data": "x.csv", "features": []}, r"stage.features=\[\] leaves the model nothing"),
    ],
)
def test_settings_that_do_not_belong_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClassifyConfig(**settings)


def test_a_split_is_chosen_by_what_is_in_a_row_wherever_it_stands():
    examples = made_up(5000)
    hashes = row_hashes(examples, 7)
    order = np.random.default_rng(1).permutation(5000)
    moved = replace(examples, features=examples.features[order], targets=examples.targets[order])
    assert np.array_equal(row_hashes(moved, 7), hashes[order])
    assert len(np.unique(hashes)) == 5000
    assert not np.array_equal(row_hashes(examples, 8), hashes)
    assert ((hashes < 2**62).mean() - 0.25) < 5 * (0.25 * 0.75 / 5000) ** 0.5


def test_published_splits_are_disjoint_whole_and_standardised_by_the_training_split(tmp_path):
    examples = made_up(1000)
    published = publish_examples(examples, 0.2, 0, tmp_path)
    assert publish_examples(examples, 0.2, 0, tmp_path) == published  # found again
    train, validation = (published.open(name, tmp_path) for name in ("train", "validation"))
    assert (len(train), len(validation)) == (published.train, published.validation)
    np.testing.assert_allclose(train.features.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train.features.std(0), [1, 1, 0], atol=1e-6)  # z is constant
    standard = published.standard
    found = np.concatenate([train.features, validation.features]) * standard.std + standard.mean
    ours, theirs = (x[np.argsort(x[:, 0])] for x in (found, examples.features))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    other = publish_examples(examples, 0.2, 1, tmp_path)
    assert other.fingerprint != published.fingerprint
    assert sorted(path.name for path in (tmp_path / "examples").iterdir()) == sorted(
        (published.fingerprint, other.fingerprint)
    )


def test_splits_without_examples_and_folders_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"validation_fraction=0\.01 cuts the 3 examples"):
        publish_examples(made_up(3), 0.01, 0, tmp_path)
    published = publish_examples(made_up(50), 0.5, 0, tmp_path)
    with pytest.raises(DataError, match="workers only open what the driver has prepared"):
        published.open("train", tmp_path / "elsewhere")


@pytest.mark.parametrize(("world_size", "micro"), [(1, 12), (1, 3), (2, 6), (3, 2), (4, 1)])
def test_each_epoch_shows_each_example_once_however_ranks_share_it(tmp_path, world_size, micro):
    published = publish_examples(made_up(103), 0.2, 0, tmp_path)
    train = published.open("train", tmp_path)
    order = Order(len(train), 5, published.fingerprint)

    def taken(world_size, micro, position, count):
        """Sample ids and labels of each step, over all ranks."""
        feeds = [
            steps(train, order, position, 12, micro, rank, world_size) for rank in range(world_size)
        ]
        return [
            sorted(
                (int(i), int(label), *own.tolist())
                for feed in feeds
                for batch in next(feed)
                for i, label, own in zip(
                    batch.sample_ids, batch.labels, batch.features, strict=True
                )
            )
            for _ in range(count)
        ]

    count = 3 * len(train) // 12
    found = taken(world_size, micro, 0, count)
    assert found == taken(1, 12, 0, count)
    assert found[10:] == taken(world_size, micro, 120, count - 10)  # as a resumed run goes on
    line = [row for step in found for row in step]
    assert [row[0] for row in line] == list(range(12 * count))
    rows = Counter(
        (label, *own)
        for label, own in zip(train.labels.tolist(), train.features.tolist(), strict=True)
    )
    for epoch in range(2):
        seen = line[epoch * len(train) : (epoch + 1) * len(train)]
        assert Counter(row[1:] for row in seen) == rows
    first, second = (line[e * len(train) : (e + 1) * len(train)] for e in (0, 1))
    assert [row[1:] for row in first] != [row[1:] for row in second]


@pytest.mark.parametrize(("world_size", "micro"), [(1, 7), (2, 4), (5, 3), (40, 2)])
def test_an_evaluation_counts_each_example_once_in_as_many_batches_on_each_rank(
    tmp_path, world_size, micro
):
    published = publish_examples(made_up(103), 0.3, 0, tmp_path)
    split = published.open("validation", tmp_path)
    shares = [list(evaluation(split, micro, rank, world_size)) for rank in range(world_size)]
    shapes = [[len(batch.labels) for batch in share] for share in shares]
    assert all(shape == shapes[0] for shape in shapes)
    counted = [int(i) for s in shares for batch in s for i in batch.sample_ids[batch.counted]]
    assert sorted(counted) == list(range(len(split)))
    assert sum(batch.weight for share in shares for batch in share) == len(split)


def test_a_confusion_matrix_is_shown_as_a_table_and_as_a_picture(tmp_path):
    draw = np.random.default_rng(0)
    labels, predicted = draw.integers(0, 4, 200), draw.integers(0, 5, 200)
    matrix = metrics.confusion_matrix(labels, predicted, labels=range(5))
    assert confusion.accuracy(matrix) == metrics.accuracy_score(labels, predicted)
    names = list("abcde")
    table = confusion.table(matrix, names)
    assert table.columns == ("class taken for", *names, "right")
    assert table.rows[2][1:-1] == tuple(str(n) for n in matrix[2])
    assert table.rows[4][-1] == "no examples"
    rows = dict(row[:2] for row in confusion.accuracy_table(matrix).rows)
    assert rows["this model"] == f"{metrics.accuracy_score(labels, predicted):.1%}"
    assert (
        rows["always the most frequent class"] == f"{np.bincount(labels).max() / len(labels):.1%}"
    )
    # Wilson's own formula for 81 of 263 (Newcombe 1998, table I).
    (newcombe, _) = confusion.accuracy_table(np.array([[81, 182], [0, 0]])).rows
    assert newcombe[2] == "25.5% to 36.6%"
    confusion.save(matrix, names, tmp_path / "confusion.png")
    many = list(map(str, range(50)))
    confusion.save(np.eye(50, dtype=np.int64), many, tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > 1000
