"""The pictures of a sweep, by what is in them."""

import json
import math

import numpy as np
from matplotlib.image import imsave

from orchestrator.record.comparing.panels import KEPT, compared
from orchestrator.record.comparing.tiles import PLANE, planes
from orchestrator.record.journal import Journal
from orchestrator.record.positions import FILE
from orchestrator.record.runs import Run, best_first


def made(
    folder, slope, *, power=1, parameters=1000, seconds=9.0, best=None, metric="validation/accuracy"
):
    """A run of 100 steps, whose accuracy is its slope."""
    folder.mkdir()
    with Journal(folder) as book:
        book.event("started", roles={"model": {"parameters": parameters}})
        for step in range(1, 101):
            loss = (3 - slope * step / 100) ** power
            values = {"train/loss": loss, "train/seconds": seconds * step / 100}
            book.metrics(step, values)
            if step % 25 == 0:
                book.metrics(step, {"validation/loss": 3 - slope * step / 200})
    result = {"status": "done", "metrics": {metric: slope}, "best": best}
    (folder / "result.json").write_text(json.dumps(result))
    return Run(folder)


def axes_of(runs):
    return {axes.get_title(loc="left"): axes for axes in compared(runs).axes}


def test_a_picture_has_the_panels_that_all_runs_have_something_for(tmp_path):
    found = {"step": 50, "metrics": {"validation/loss": 2.9}}
    fast = made(tmp_path / "fast", 0.9, best=found)
    slow = made(tmp_path / "slow", 0.3)
    axes = axes_of({"slow": slow, "fast": fast})
    assert list(axes) == ["Training", "Validation", "Result, best first", "By time"]
    assert axes["Training"].get_ylim() == axes["Validation"].get_ylim(), "of one kind, one scale"
    result = axes["Result, best first"]
    assert [text.get_text() for text in result.texts] == ["0.9", "fast", "0.3", "slow"]
    assert result.get_ylim()[0] > result.get_ylim()[1], "the first is at the top"
    (star,) = [line for line in axes["Validation"].get_lines() if line.get_label() == KEPT]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (50, 2.9)
    heart = made(tmp_path / "heart", 2.95, power=4)  # far below what it is in validation
    apart = axes_of({"slow": slow, "heart": heart})
    assert apart["Training"].get_ylim() != apart["Validation"].get_ylim(), "it would be a line"
    large = made(tmp_path / "large", 0.95, parameters=2000, seconds=1.0)
    small = made(tmp_path / "small", 0.2, seconds=1.0)
    for run in (small, large):
        (run.folder / FILE).write_text("tokens_seen,tokens,loss\n1,5,3\n4,5,2\n")
    assert list(axes_of({"small": small, "large": large}))[3:] == [
        "By parameters",
        "By distance in the context",
    ]


def test_results_are_ordered_by_what_is_better_and_a_run_without_one_is_last(tmp_path):
    accuracies = [made(tmp_path / f"a{n}", slope) for n, slope in enumerate((0.2, 0.9, 0.5))]
    assert best_first([None, *accuracies]) == [2, 3, 1, 0]
    losses = [made(tmp_path / f"l{n}", x, metric="validation/loss") for n, x in enumerate((2, 1))]
    assert best_first(losses) == [1, 0]
    unlike = [accuracies[0], losses[1]]
    assert best_first(unlike) == [0, 1], "what can't be compared stays where it is"
    cheat = made(tmp_path / "cheat", 0.99)
    (cheat.folder / "config.yaml").write_text("model: {mask: reversed}\n")
    assert best_first([cheat, *accuracies]) == [2, 3, 1, 0], "it sees what it predicts"
    result = axes_of({"cheat": cheat, "fair": accuracies[0]})["Result, best first"]
    shown = [text.get_text() for text in result.texts]
    assert shown == ["0.2", "fair", "0.99 (sees what it predicts)", "cheat"]
    diverged = made(tmp_path / "nan", math.nan)
    assert best_first([diverged, accuracies[0]]) == [1, 0]
    assert len(compared({"a": accuracies[0], "nan": diverged}).axes) == 4


def test_tiles_stand_in_rows_of_what_runs_have_in_common(tmp_path):
    runs = {name: made(tmp_path / name, 0.5) for name in ("a1", "a2", "a3", "b1", "b2", "b3")}
    groups = [name[0] for name in runs]
    assert planes(runs, groups) is None
    for run in runs.values():
        imsave(run.folder / PLANE, np.ones((4, 4)))
    figure = planes(runs, groups)
    assert figure is not None
    places = [(axes.get_subplotspec().rowspan.start, axes.get_title()) for axes in figure.axes]
    assert [row for row, _ in places] == [0, 0, 0, 1, 1, 1]
    assert places[3][1] == "b1\naccuracy 0.5"
