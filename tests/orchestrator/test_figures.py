import math

import numpy as np
import pytest

from orchestrator.record.figures import read_series, running_mean, training_figures
from orchestrator.record.journal import Journal

PNG = b"\x89PNG\r\n"


def write_journal(folder, steps):
    with Journal(folder) as book:
        for step in range(1, steps + 1):
            loss = math.nan if step == 9 else 2 + 3 / step
            values = {"train/loss": loss, "train/learning_rate": 1e-3 * step / steps}
            book.metrics(step, values | {"train/gradient_norm": 100.0 / step})
            book.metrics(step, {"train/tokens_per_second": 900.0 + step % 7})
            if step % 10 == 0:
                book.metrics(step, {"validation/loss": 2.1 + 3 / step})
    return folder


@pytest.mark.parametrize("steps", [1, 20, 300])
def test_a_journal_gives_four_figures_with_units_that_can_be_saved(tmp_path, steps):
    figures = training_figures(write_journal(tmp_path, steps))
    assert list(figures) == ["loss", "learning_rate", "gradient_norm", "throughput"]
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
        (axes,) = figure.axes
        assert axes.get_xlabel() == "optimizer step"
    assert figures["loss"].axes[0].get_ylabel() == "loss"
    assert figures["throughput"].axes[0].get_ylabel() == "per second, all ranks"


def test_the_curves_are_the_points_of_the_journal_and_nan_is_marked(tmp_path):
    axes = training_figures(write_journal(tmp_path, 40))["loss"].axes[0]
    curves = {line.get_label(): line for line in axes.get_lines()}
    steps = np.arange(1, 41)
    want = np.where(steps == 9, np.nan, 2 + 3 / steps)
    np.testing.assert_array_equal(curves["train/loss"].get_xdata(), steps)
    np.testing.assert_array_equal(curves["train/loss"].get_ydata(), want)
    np.testing.assert_array_equal(curves["validation/loss"].get_xdata(), [10, 20, 30, 40])
    assert "not finite" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_wide_range_is_drawn_on_a_logarithmic_axis(tmp_path):
    figures = training_figures(write_journal(tmp_path, 300))
    assert figures["gradient_norm"].axes[0].get_yscale() == "log"
    assert figures["loss"].axes[0].get_yscale() == "linear"


def test_what_any_stage_measures_is_drawn_one_curve_per_metric(tmp_path):
    names = ["train/accuracy", *(f"validation/set_{i}/accuracy" for i in range(9))]
    with Journal(tmp_path) as book:
        for step in (1, 2):
            book.metrics(step, dict.fromkeys(names, 0.1 * step) | {"train/examples_per_second": 9})
    figures = training_figures(tmp_path)
    assert list(figures) == ["accuracy", "throughput"]
    lines = figures["accuracy"].axes[0].get_lines()
    assert [line.get_label() for line in lines] == names


def test_a_journal_without_metrics_gives_no_figures(tmp_path):
    assert training_figures(tmp_path) == {}


def test_a_repeated_step_shows_the_value_that_counts_and_a_step_that_led_nowhere_none(tmp_path):
    with Journal(tmp_path) as book:
        for step, loss in ((1, 5.0), (2, 4.0), (3, 9.0), (4, 8.0)):
            book.metrics(step, {"train/loss": loss})
        book.attempt = 2
        book.event("resumed", step=1, path="c")
        for step, loss in ((2, 4.5), (3, 3.0)):
            book.metrics(step, {"train/loss": loss})
    assert read_series(tmp_path) == {"train/loss": ([1, 2, 3], [5.0, 4.5, 3.0])}


def test_running_mean_equals_a_slow_loop_over_finite_values():
    values = [1.0, 4.0, math.nan, 2.0, math.inf, 8.0, 3.0]
    for half in (0, 1, 2, 10):
        want = []
        for i in range(len(values)):
            near = [v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v)]
            want.append(sum(near) / len(near) if near else math.nan)
        np.testing.assert_allclose(running_mean(values, half), want)
