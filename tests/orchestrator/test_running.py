"""The loop of a sweep, on trials whose curves are known formulas; see curves.py."""

import json
import math
import time

import numpy as np
import pytest

from orchestrator.compose import compose_one
from orchestrator.compose.sweeping import Sweeping
from orchestrator.verbs.sweep.asked import Asked, fill_in
from orchestrator.verbs.sweep.proposals import Proposer
from orchestrator.verbs.sweep.ranking import Repeated, certainty, ranked
from orchestrator.verbs.sweep.report import Report
from orchestrator.verbs.sweep.running import Ends, Sweep
from orchestrator.verbs.sweep.settings import read
from orchestrator.verbs.sweep.space import Space
from orchestrator.verbs.sweep.table import Table, Trial
from tests.orchestrator.curves import Curves

RATE = "optim.learning_rate=tag(log,interval(1e-4,1e-1))"
JOB = ("stage.steps=100", "stage.evaluate_every=10", "resources=inline", "tracking=none")


class Killed(BaseException):
    """As kill -9: nothing of this process goes on."""


class Dying(Table):
    """A table whose process is killed when it wants to write one row more than it may."""

    left = math.inf

    def write(self, event, trial, **facts):
        if self.left == 0:
            raise Killed
        self.left -= 1
        return super().write(event, trial, **facts)


class Carried:
    """A sweep in a folder of its own, carried out in this process, once or in several lives."""

    def __init__(self, root, *words):
        self.folder = root / "2026-01-01" / "00-00-00-sweep-x"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.said, self.started = [], []
        own = {word.partition("=")[0] for word in words}
        job = [word for word in JOB if word.partition("=")[0] not in own]
        with Sweeping(None) as compose:
            of_sweep, space = compose.asked([*job, f"outputs={root}", *words])
            self.asked, _ = fill_in(space, read(of_sweep), ["sweep"], None, compose.job)
        self.asked.save(self.folder)

    def live(self, rows=math.inf, **curves):
        """Go on until the end, or until so many more rows are written; whether it was the end."""
        asked = Asked.load(self.folder)
        assert asked == self.asked
        directions = [direction for _, direction in asked.objectives]
        launcher = Curves(**curves)
        with Sweeping(None) as compose, Dying(self.folder) as table:
            table.left = rows
            self.proposer = Proposer(
                asked.space, asked.settings, directions, asked.course, asked.seed
            )
            sweep = Sweep(asked, table, self.proposer, launcher, compose.job, self.said.append)
            try:
                return sweep.run()
            except Killed:
                return False
            finally:
                self.started += launcher.started
                self.trials = table.trials
                self.groups = compose.is_group("optim") and compose.is_group

    @property
    def steps(self):
        return sum(trial.steps for trial in self.trials)

    def report(self):
        with Sweeping(None) as compose:
            report = Report(self.folder, self.asked, self.trials, 1.0, "done")
            lines = report.write(self.proposer, compose.is_group)
        return "\n".join(lines), json.loads((self.folder / "report.json").read_text())


def proposals(trials):
    return [(t.number, t.point, t.stopped, t.values, sorted(t.reports)) for t in trials]


@pytest.mark.parametrize("sampler", ["cmaes", "tpe"])
def test_a_sweep_killed_between_any_two_rows_makes_the_proposals_it_would_have_made(
    sampler, tmp_path
):
    words = (RATE, "model.dropout=interval(0,0.5)", f"sampler={sampler}", "pruner=asha")
    words = (*words, "trials=13")
    whole = Carried(tmp_path / "whole", *words)
    assert whole.live()
    rows = len((whole.folder / "trials.jsonl").read_text().splitlines())
    assert any(trial.stopped for trial in whole.trials)
    assert len({trial.status for trial in whole.trials}) == 2
    for lives in ([1, rows // 3, 5], [7, 7, 7, 7, rows // 2 - 28 + 3]):
        killed = Carried(tmp_path / "-".join(map(str, lives)), *words)
        for life in lives:
            assert not killed.live(rows=life)
        with (killed.folder / "trials.jsonl").open("a") as file:
            file.write('{"torn')
        assert killed.live()
        assert proposals(killed.trials) == proposals(whole.trials)
        ended = [t for t in killed.trials if len(t.folders) == 1]
        assert len(killed.trials) - len(ended) <= len(lives), "no other trial was started twice"


def test_the_worst_of_a_population_go_on_from_the_best_with_values_near_theirs(tmp_path):
    words = (RATE, "model.dropout=0.0,0.1,0.2", "pruner=pbt", "trials=4", "sampler=random")
    words = (*words, "stage.evaluate_every=25")
    whole = Carried(tmp_path / "whole", *words)
    assert whole.live(room=2, every=25)
    first, later = whole.trials[:4], whole.trials[4:]
    assert len(later) == 3, "one at each of the evaluations before the last"
    near = 0
    assert sum(trial.status == "done" for trial in whole.trials) == 4
    for trial in later:
        origin, before = whole.trials[trial.origin], trial.begun_at
        replaced = [t for t in whole.trials[: trial.number] if t.member == trial.member][-1]
        assert (replaced.status, max(replaced.reports)) == ("pruned", before)
        at_once = [t for t in whole.trials if before in t.reports and t.begun_at < before]
        assert len(at_once) == 4, "the whole population stood still"
        values = sorted(t.reports[before] for t in at_once)
        assert origin.reports[before] == values[0]
        assert replaced.reports[before] == values[-1]
        came = origin.folders[(before - origin.begun_at) // 25 - 1]
        assert trial.words[0] == f"resume={came}"
        factor = trial.point["optim.learning_rate"] / origin.point["optim.learning_rate"]
        near += any(math.isclose(factor, f) for f in (0.8, 1.2))
    assert near >= 1, "three of four"
    assert ranked(whole.asked, whole.trials)[0].values <= min(t.values for t in first if t.values)
    killed = Carried(tmp_path / "killed", *words)
    for rows in (10, 7, 1, 6):
        assert not killed.live(rows=rows, room=2, every=25)
    assert killed.live(room=2, every=25)
    assert [t.point for t in killed.trials] == [t.point for t in whole.trials]
    assert [t.status for t in killed.trials] == [t.status for t in whole.trials]
    with pytest.raises(ValueError, match=r"model.layers can't be changed in a run that goes on"):
        Carried(tmp_path / "no", "model.layers=1,2", "pruner=pbt")


def test_asha_finds_what_the_grid_finds_with_at_most_two_fifths_of_its_steps(tmp_path):
    rates = np.geomspace(1e-4, 1e-1, 8)
    words = (f"optim.learning_rate={','.join(f'{rate:.6g}' for rate in rates)}",)
    words = (*words, "model.dropout=0.0,0.1,0.2,0.3")
    grid = Carried(tmp_path / "grid", *words)
    assert grid.live(room=2)
    asha = Carried(tmp_path / "asha", *words, "pruner=asha")
    assert asha.live(room=2)
    assert len(asha.trials) == len(grid.trials) == 32
    first = [ranked(own.asked, own.trials)[0] for own in (grid, asha)]
    assert first[0].values == first[1].values
    assert asha.steps <= 0.4 * grid.steps


def test_asha_ends_most_of_a_grid_of_which_each_point_is_better_than_those_before(tmp_path):
    rates = ",".join(f"{rate:.6g}" for rate in np.geomspace(1e-4, 1e-1, 32))

    def rising(point, step):
        return 1 - point["optim.learning_rate"] + math.exp(-step / 20)

    asha = Carried(tmp_path / "asha", f"optim.learning_rate={rates}", "pruner=asha")
    assert asha.live(room=2, function=rising)
    assert len({trial.point["optim.learning_rate"] for trial in asha.trials}) == 32
    assert ranked(asha.asked, asha.trials)[0].point["optim.learning_rate"] == "0.1"
    assert asha.steps <= 0.4 * 32 * 100, "in the order of the grid none would be ended"
    grid = Carried(tmp_path / "grid", f"optim.learning_rate={rates}", "trials=3", "sampler=grid")
    assert grid.live(function=rising)
    assert [trial.point["optim.learning_rate"] for trial in grid.trials] == rates.split(",")[:3]


def test_trials_that_fail_are_counted_and_shown_and_do_not_stop_the_rest(tmp_path):
    sweep = Carried(tmp_path, "seed=1,2,3,4,5,6", RATE, "sampler=random", "trials=6")
    assert sweep.live(room=2, fails=(1, 4))
    assert [t.status for t in sweep.trials] == ["done", "failed", "done", "done", "failed", "done"]
    assert any("trial 1   failed" in line and "loss is NaN" in line for line in sweep.said)
    lines, facts = sweep.report()
    assert "4 done, 2 failed" in lines
    assert facts["trials"] == {"done": 4, "pruned": 0, "failed": 2, "refused": 0}
    few = Carried(tmp_path / "few", "seed=1,2,3,4,5,6", "failures=2")
    with pytest.raises(Ends, match=r"2 of 5 trials have failed, the last: loss is NaN; failures=2"):
        few.live(fails=(1, 4))


def test_what_is_spared_is_told_against_the_steps_that_each_trial_was_to_take(tmp_path):
    whole = Carried(tmp_path / "whole", "optim.learning_rate=3e-3", "stage.steps=60,120")
    assert whole.live()
    said, _ = whole.report()
    assert "2 trials: 2 done; 180 steps; " in said
    words = ("optim.learning_rate=3e-3,1e-2,1e-1", "stage.steps=60,120")
    part = Carried(tmp_path / "part", *words, "pruner=asha")
    assert part.live()
    assert part.steps < 540
    assert f"{part.steps} steps, {part.steps / 540:.0%} of what all" in part.report()[0]


def test_an_objective_that_nothing_reports_is_said_after_the_first_trial(tmp_path):
    sweep = Carried(tmp_path, "seed=1,2,3", "objective=validation/los")
    with pytest.raises(Ends) as told:
        sweep.live()
    assert sweep.started == [0]
    assert "did you mean validation/loss?; it reports validation/loss" in str(told.value)
    bound = Carried(tmp_path / "bound", "seed=1,2,3", "constraint=train/loss<=2")
    with pytest.raises(Ends, match="constraint=train/loss: trial 0 has measured no such thing"):
        bound.live()


def test_the_best_keeps_the_constraints_and_several_objectives_have_a_front(tmp_path):
    def cost(point):
        return {"train/seconds": point["optim.learning_rate"] * 1e4}

    sweep = Carried(tmp_path, RATE, "sampler=sobol", "trials=16", "constraint=train/seconds<=20")
    assert sweep.live(also=cost)
    best = ranked(sweep.asked, sweep.trials)
    rates = [trial.point["optim.learning_rate"] for trial in best]
    assert max(rates) <= 2e-3
    assert rates[0] == max(rates), "the nearest to 3e-3 of those that are allowed"
    several = Carried(
        tmp_path / "several", RATE, "trials=16", "objective=validation/loss,train/seconds:lower"
    )
    assert several.live(also=cost)
    front = ranked(several.asked, several.trials)
    for one in several.trials:
        beaten = any(
            o.values[0] < one.values[0] and o.values[1] < one.values[1] for o in several.trials
        )
        assert beaten != (one in front)
    assert "front" in several.report()[0]


def test_the_best_trial_comes_back_as_overrides_and_as_an_experiment(tmp_path):
    words = ("experiment=small", "stage=classify", "optim=adam,sgd", RATE, "sampler=tpe")
    sweep = Carried(tmp_path, *words, "model.hidden=[8],[4,4]", "trials=12", "name=mine")
    assert sweep.live()
    lines, facts = sweep.report()
    best = ranked(sweep.asked, sweep.trials)[0]
    assert facts["best"][0]["trial"] == best.number
    again = compose_one(["-cd", str(sweep.folder / "conf"), "experiment=mine"])
    assert again == compose_one(best.words)
    assert "experiment=mine -cd" in lines
    for picture in ("parallel_coordinates.png", "curves.png"):
        assert (sweep.folder / picture).read_bytes().startswith(b"\x89PNG")


def test_importance_names_the_setting_that_matters_and_says_when_trials_are_too_few(tmp_path):
    words = (RATE, "model.dropout=interval(0,0.001)", "sampler=random")
    few = Carried(tmp_path / "few", *words, "trials=5")
    assert few.live()
    assert "5 finished trials are too few to tell which of 2 settings matter" in few.report()[0]
    many = Carried(tmp_path / "many", *words, "trials=30")
    assert many.live()
    shares = many.report()[1]["importance"]
    assert shares["optim.learning_rate"] > 0.8


def test_seeds_tell_a_difference_from_noise(tmp_path):
    noise = {0: 0.0, 1: 0.3, 2: -0.3, 3: 0.1}

    def noisy(point, step):
        return point["optim.learning_rate"] * 10 + noise[int(point.get("seed", 0))]

    sweep = Carried(tmp_path, "optim.learning_rate=0.01,0.02,0.9", "seeds=4")
    assert sweep.live(function=noisy)
    repeats = [t for t in sweep.trials if t.seed_of is not None]
    assert len(repeats) == 9
    assert {t.words[-1] for t in repeats} == {"seed=1", "seed=2", "seed=3"}
    lines, facts = sweep.report()
    assert facts["repeats"][0]["mean"] == pytest.approx(0.1 + 0.025)
    assert "trial 0 is not surely better than trial 1" in lines

    def of(number, values):
        return Repeated(Trial(number, {}, [], {}), values)

    difference, error, p = certainty(of(0, [1.0, 1.1, 0.9]), of(1, [2.0, 2.1, 1.9]))
    assert (difference, error) == pytest.approx((1.0, math.sqrt(2 * 0.01 / 3)))
    assert p < 0.001


def test_the_record_of_a_trial_takes_less_than_a_hundredth_of_one_that_takes_a_second(tmp_path):
    sweep = Carried(tmp_path, RATE)
    begun = time.process_time()
    with Table(tmp_path / "2026-01-01" / "00-00-00-sweep-x") as table:
        for number in range(200):
            point = {"optim.learning_rate": 1e-3 + number}
            table.write("proposed", number, point=point, words=["a=b"] * 12, attributes={})
            table.write("started", number, folder="../12-00-00-pretrain-123456")
            for step in range(10):
                table.write("report", number, step=step, value=0.5)
            facts = {"status": "done", "values": [0.5], "excess": [], "steps": 10, "message": None}
            table.write("ended", number, **facts)
    each = (time.process_time() - begun) / 200
    assert each < 0.01
    assert sweep.asked.trials == 20


def test_two_processes_can_not_carry_out_one_sweep(tmp_path):
    with Table(tmp_path), pytest.raises(ValueError, match="is the sweep of another process"):
        Table(tmp_path)


def test_a_named_sweep_holds_settings_of_the_sweep_and_alternatives(tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "# mine\n- stage=classify\n- sampler=random\n- trials=3\n- optim.learning_rate=1e-3,1e-2\n"
        "- [optim=adam, optim=sgd optim.momentum=0]\n"
    )
    with Sweeping(str(tmp_path)) as own:
        of_sweep, space = own.asked(["mine", "trials=2", "stage.steps=9"])
    assert read(of_sweep).trials == 2, "what is typed has the last word"
    rate, choice = space.axes
    assert choice.name == "optim|optim.momentum"
    point = {rate.name: "1e-2", choice.name: "optim=sgd optim.momentum=0"}
    assert space.words(point) == [
        *("stage=classify", "optim.learning_rate=1e-2", "optim=sgd", "optim.momentum=0"),
        "stage.steps=9",
    ]
    assert Space.of(space.plain()) == space
