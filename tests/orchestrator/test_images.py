import gzip
import os
import pickle
import struct

import numpy as np
import pytest

from orchestrator.stages.classify import mistakes
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.stages.features.images import FILES, read_pictures
from orchestrator.stages.features.sources import make_inputs

DRAW = np.random.default_rng(0)
IMAGES = {
    "train": DRAW.integers(0, 256, (12, 4, 4)),
    "validation": DRAW.integers(0, 256, (6, 4, 4)),
}
LABELS = {"train": np.arange(12) % 3, "validation": np.arange(6) % 3}


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path):
    """A folder of IDX files as MNIST has it, one of them compressed."""
    for split, (images, labels) in FILES.items():
        (tmp_path / images).write_bytes(idx(IMAGES[split]))
        with gzip.open(tmp_path / f"{labels}.gz", "wb") as file:
            file.write(idx(LABELS[split]))
    return tmp_path


def as_pickle(path, content, protocol=2):
    with gzip.open(path, "wb") as file:
        pickle.dump(content, file, protocol)
    return path


def three_pairs():
    images = {split: own.reshape(len(own), -1) / np.float32(256) for split, own in IMAGES.items()}
    train, labels = images["train"].astype(np.float32), LABELS["train"]
    validation = images["validation"].astype(np.float32), LABELS["validation"]
    return (train[:8], labels[:8]), (train[8:], labels[8:]), validation


def test_idx_files_and_the_pickle_give_the_pictures_that_went_into_them(folder):
    found = read_pictures(folder)
    for protocol in (2, 4):
        opened = read_pictures(as_pickle(folder / "mnist.pkl.gz", three_pairs(), protocol))
        for split, own in found.items():
            assert own.shape == opened[split].shape == (4, 4)
            assert np.array_equal(own.pixels, IMAGES[split].reshape(-1, 16))
            np.testing.assert_allclose(opened[split].pixels, own.pixels / 256)
            assert np.array_equal(own.labels, LABELS[split])
            assert np.array_equal(opened[split].labels, own.labels)
    inputs, _ = make_inputs(ClassifyConfig(data=str(folder), scaling="unit"), 0, None, classes=True)
    assert (inputs.train, inputs.validation, inputs.outputs, inputs.shape) == (12, 6, 3, (4, 4))
    assert set(inputs.standard.std) == {float(max(own.max() for own in [IMAGES["train"]]))}


class Harmful:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("hidden", ["whole", "inside"])
def test_a_pickle_that_would_run_something_is_refused_and_nothing_runs(tmp_path, hidden):
    harm = Harmful(tmp_path / "ran")
    content = harm if hidden == "whole" else (*three_pairs()[:2], (harm, LABELS["validation"]))
    with pytest.raises(ValueError, match=r"it names posix\.system, which no array needs"):
        read_pictures(as_pickle(tmp_path / "a.pkl.gz", content))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2, 3], "it names|cannot unpack|give MNIST's pickle"),
        ((np.array([object()], dtype=object),) * 3, "give MNIST's pickle"),
        (((np.zeros((2, 15), np.float32), np.zeros(2, int)),) * 3, "15 pixels, which are not the"),
        (((np.zeros((2, 16), np.float32), np.zeros(3, int)),) * 3, "pictures and 6 labels"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_pictures(as_pickle(tmp_path / "a.pkl.gz", content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / FILES["train"][0]).unlink(), "has no train-images-idx3-ubyte or"),
        (
            lambda f: (f / FILES["validation"][0]).write_bytes(idx(np.zeros((6, 5, 4)))),
            "training pictures are of 4 x 4 pixels and those for validation of 5 x 4",
        ),
        (
            lambda f: (f / FILES["train"][0]).write_bytes(idx(IMAGES["train"])[:-3]),
            "is damaged: it holds 189 bytes of numbers, and its shape .* needs 192",
        ),
        (lambda f: (f / FILES["train"][0]).write_bytes(b"PNG!"), "is no IDX file"),
        (
            lambda f: (f / FILES["train"][0]).write_bytes(idx(IMAGES["train"][:5])),
            "5 pictures and 12 labels",
        ),
        (
            lambda f: (f / FILES["train"][0]).write_bytes(idx(np.zeros(12))),
            "arrays of 1 and 1 dimensions; pictures have 3",
        ),
    ],
)
def test_files_of_pictures_that_do_not_fit_are_refused(folder, change, message):
    change(folder)
    with pytest.raises(ValueError, match=message):
        read_pictures(folder)


@pytest.mark.parametrize("scaling", ["standard", "unit", "none"])
def test_what_was_read_wrongly_is_shown_as_it_was_drawn_however_it_was_scaled(
    folder, tmp_path, scaling
):
    stage = ClassifyConfig(data=str(folder), scaling=scaling)
    inputs, _ = make_inputs(stage, 0, tmp_path / "cache", classes=True)
    labels = LABELS["validation"]
    told = np.stack([labels, np.where(np.arange(6) == 4, 2, labels)], 1)
    split = inputs.open("validation", tmp_path / "cache")
    figure = mistakes.draw(split, told, inputs.standard, (4, 4), inputs.classes)
    (axes,) = figure.axes
    assert axes.get_title() == "1 read as 2"
    np.testing.assert_allclose(axes.images[0].get_array(), IMAGES["validation"][4], atol=1e-3)
