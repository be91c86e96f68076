"""`orchestrate compare` on run folders whose curves are made here, and on real ones."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from orchestrator.record.comparing import differences, recipes
from orchestrator.record.runs import find
from orchestrator.stages import STAGES
from tests.orchestrator.typed import on, refused, trained, typed


def noisy(shift=0.0, seed=0, steps=400, scatter=0.1):
    """A falling curve with Gaussian scatter."""
    rng = np.random.default_rng(seed)
    curve = 2 + 3 * np.exp(-np.arange(steps) / 80) + shift + rng.normal(0, scatter, steps)
    return list(range(1, steps + 1)), list(curve)


@pytest.fixture
def outputs(corpus, tmp_path, monkeypatch):
    """A run, the same with another seed, and one with another loss and a secret."""
    monkeypatch.chdir(tmp_path)
    day = Path("outputs/2026-01-02")
    for number, (name, shift) in enumerate((("aaa111", 0), ("bbb222", 0), ("ccc333", 1))):
        folder = day / f"03-04-0{number}-pretrain-{name}"
        shutil.copytree(trained(corpus), folder)
        config = (folder / "config.yaml").read_text()
        config = config.replace("seed: 0", f"seed: {number}")
        if shift:
            config = config.replace("  experiment: ", "  api_token: hunter2hunter2\n  experiment: ")
        (folder / "config.yaml").write_text(config)
        lines = [
            {"time_ms": 0, "attempt": 1, "step": step, "metrics": {"train/loss": value}}
            for step, value in zip(*noisy(shift, number), strict=True)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return Path("outputs")


def test_settings_that_differ_are_shown_without_secrets_and_the_rest_is_the_same(outputs):
    answer = typed("compare", "aaa111", "bbb222", "ccc333")
    assert answer.code == 0, answer
    rows = {line.split()[0]: line.split()[1:] for line in answer.out.splitlines() if line.strip()}
    assert rows["seed"] == ["0", "1", "2"]
    assert "optim.learning_rate" not in rows
    assert "hunter2" not in answer.out
    assert answer.out.count("all: the same in all") == 2, "data and code"
    assert "bbb222 lies in it" in answer.out
    assert "ccc333 leaves it for good at step 1 and ends" in answer.out
    assert Path("compare.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_outside_of_the_band_that_was_asked_for_ends_with_1(outputs):
    inside = typed("compare", "bbb222", "--band", "aaa111", "--json")
    assert inside.code == 0, inside
    assert json.loads(inside.out)["train/loss"]["bbb222"]["inside"] is True
    outside = typed("compare", "ccc333", "--band", "aaa111", "bbb222", "--metric", "train/loss")
    assert outside.code == 1, outside


def test_the_band_of_several_runs_is_the_prediction_interval_of_a_new_one():
    curves = [noisy(seed=seed) for seed in range(4)]
    band = differences.band_of(curves, "loss")
    means = np.array([list(differences.smooth(own).values()) for own in curves])
    step = 200
    window = means[:, step - 8 : step + 9].var(axis=0, ddof=1).mean()  # 400 // 50 each side
    margin = t.ppf(0.975, 3) * math.sqrt(window * (1 + 1 / 4))
    assert band.high[step] - band.low[step] == pytest.approx(2 * margin)
    assert band.high[step] + band.low[step] == pytest.approx(2 * means[:, step].mean())


def test_a_band_by_factors_is_the_interval_of_logarithms_and_leaves_out_what_has_none():
    values = [(0.0, 0.1, 0.4), (0.0, 0.2, 0.2), (0.0, 0.1, 0.1)]
    band = differences.band_of([([0, 1, 2], own) for own in values], "kl", by_factors=True)
    logs = np.log([own[1:] for own in values])
    margin = t.ppf(0.975, 2) * math.sqrt(logs.var(axis=0, ddof=1).mean() * (1 + 1 / 3))
    assert band.steps == [1, 2]
    assert np.log(band.low) == pytest.approx(logs.mean(axis=0) - margin)
    assert np.log(band.high) == pytest.approx(logs.mean(axis=0) + margin)


def test_of_many_like_runs_about_as_many_lie_in_the_band_at_a_step_as_it_says():
    share = [
        np.mean(
            [
                differences.place(noisy(seed=1000 * trial + own), band).share
                for own in range(100, 105)
            ]
        )
        for trial in range(20)
        for band in [differences.band_of([noisy(seed=1000 * trial + s) for s in range(5)], "loss")]
    ]
    assert 0.9 < np.mean(share) <= 1.0


def test_the_scatter_of_one_run_tells_a_shift_from_noise():
    band = differences.band_of([noisy()], "loss")
    assert band.half_width == pytest.approx(2 * 0.1, rel=0.1)  # two standard deviations
    assert differences.place(noisy(seed=1), band).inside
    gone = differences.place(noisy(0.5, seed=1), band)
    assert gone.leaves == 1
    assert gone.beyond == pytest.approx(0.3, abs=0.1)
    assert differences.place(([1000, 1001], [1.0, 1.0]), band) is None


def test_wrong_requests_are_named(outputs):
    assert "no reference curve of stage=pretrain" in refused("compare", "aaa111")
    assert "two runs or more" in refused("compare", "aaa111", "aaa111")
    assert "did you mean" in refused("compare", "aaa111", "bbb222", "--metric", "train/los")
    assert "no run folder" in refused("compare", "aaa111", "zzz999")
    (empty,) = outputs.glob("*/*-bbb222")
    (empty / "metrics.jsonl").write_text("")
    assert "no loss that all have" in refused("compare", "aaa111", "bbb222")


def test_two_real_runs_that_differ_in_a_setting_alone_are_told_apart_by_it(corpus, tmp_path):
    outputs = tmp_path / "outputs"
    for rate in ("1e-3", "2e-3"):
        words = (*on(corpus), "stage.steps=3", f"outputs={outputs}", f"optim.learning_rate={rate}")
        assert typed("run", *words).code == 0
    names = [folder.name for folder in outputs.glob("2*/*")]
    picture = f"--picture={tmp_path / 'c.png'}"
    answer = typed("compare", *names, f"--outputs={outputs}", "--json", picture)
    assert answer.code == 0, answer
    found = json.loads(answer.out)
    assert list(found["settings"]) == ["optim.learning_rate"]
    assert all(len(set(values)) == 1 for values in found["data"].values())


def test_a_run_alone_is_compared_with_the_runs_that_its_recipe_gave(outputs, tmp_path, monkeypatch):
    file = tmp_path / "references.yaml"
    monkeypatch.setattr(recipes, "OURS", file)
    first, second, other = (find(name, outputs) for name in ("aaa111", "bbb222", "ccc333"))
    _, [kept] = recipes.keep("pretrain", ["train/loss"], [first, second], "orchestrate run")
    recipes.keep("another", ["train/loss"], [first, second], "orchestrate run stage=another")
    recipe, [again] = recipes.reference("pretrain")
    assert recipe == "orchestrate run"
    assert (again.metric, again.steps, again.runs) == (kept.metric, kept.steps, 2)
    assert again.low == pytest.approx(kept.low, rel=1e-3)
    assert again.high == pytest.approx(kept.high, rel=1e-3)
    inside = typed("compare", first.id)
    assert inside.code == 0, inside
    assert "band of 2 runs of `orchestrate run`" in inside.out
    assert "aaa111 lies in it" in inside.out
    assert "aaa111 was asked for with data=text" in inside.out
    journal = first.folder / "metrics.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:200]))
    assert "lies in it: 100% of 200 steps, and has come to step 200 of 400" in (
        typed("compare", first.id).out
    )
    outside = typed("compare", other.id, "--json")
    assert outside.code == 1
    assert json.loads(outside.out)["train/loss"]["ccc333"]["inside"] is False


def test_a_run_at_another_rate_is_outside_of_its_recipe_and_one_of_another_seed_inside(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes, "OURS", tmp_path / "references.yaml")
    recipe = ("experiment=small", "stage=classify", "tracking=none", "resources=inline")
    alone = ("resources.cpus_per_worker=1", "resources.gpus_per_worker=0")
    settings = ("stage.steps=60", "stage.evaluate_every=10", "optim.learning_rate=1e-2")
    words = (*settings, "optim.warmup_steps=0", "stage.checkpoint_every=null")

    def run(*changed):
        assert typed("run", *recipe, *alone, *words, *changed).code == 0
        return find("outputs/latest", Path("outputs"))

    runs = [run(f"seed={seed}") for seed in range(3)]
    metrics, typed_for_one = ("validation/loss", "train/loss"), "orchestrate run stage=classify"
    _, [band, _] = recipes.keep("classify", metrics, runs, typed_for_one)
    assert band.steps == list(range(10, 61, 10))
    like = run("seed=3")
    alike = typed("compare", str(like.folder), "--json")
    assert alike.code == 0, alike
    slow = run("seed=3", "optim.learning_rate=1e-3")
    unlike = typed("compare", str(slow.folder))
    assert unlike.code == 1, unlike
    assert "above it" in unlike.out


def test_the_recipes_that_ship_are_those_of_the_stages_as_they_are():
    """A stage whose steps were changed needs new reference curves."""
    for stage in ("reward", "dpo", "grpo", "ppo"):
        recipe, bands = recipes.reference(stage)
        settings = STAGES[stage].section()
        every = settings.evaluate_every
        assert recipe.startswith(f"orchestrate run stage={stage} model.weights=")
        for band in bands:
            assert band.runs == 3
            assert band.steps == list(range(every, settings.steps + 1, every)), stage
            assert all(0 < low < high for low, high in zip(band.low, band.high, strict=True))
