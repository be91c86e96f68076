"""`orchestrate scaling` as it is typed: tables, run folders, and what is refused."""

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from orchestrator.scaling import fitting
from tests.orchestrator.test_scaling import grid, measured
from tests.orchestrator.typed import refused, trained, typed

POINTS = measured("chinchilla", *grid(), noise=0.003)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(text="", columns="parameters,tokens,loss", rows=None):
    """A CSV file, by default that of POINTS."""
    if not text:
        own = zip(POINTS.parameters, POINTS.tokens, POINTS.loss, strict=True)
        text = "\n".join([columns, *(",".join(map(str, row)) for row in rows or own)])
    Path("points.csv").write_text(text)
    return "points.csv"


def ran(corpus, folder, parameters, tokens, loss, status="done"):
    """A run folder as one of this size would have left it."""
    shutil.copytree(trained(corpus), folder, ignore=lambda *_: {"checkpoints", "figures"})
    result = json.loads((folder / "result.json").read_text())
    flops = 7 * parameters * tokens
    result["metrics"] |= {"validation/loss": loss, "train/tokens": tokens, "train/flops": flops}
    result["status"] = status
    (folder / "result.json").write_text(json.dumps(result))
    lines = (folder / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    started = next(event for event in events if event["event"] == "started")
    started["roles"]["model"]["parameters"] = int(parameters)
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))


def test_a_table_gives_constants_intervals_convention_covariance_and_a_picture():
    answer = typed("scaling", "fit", table(), "--draws", "40", "--json")
    assert answer.code == 0, answer
    found = json.loads(answer.out)
    low, high = found["intervals"]["alpha"]
    assert low < found["constants"]["alpha"] < high
    assert found["convention"] == {"parameters": "total", "flops": "C = 6 N D"}
    covariance = np.array(found["covariance"]["values"])
    assert covariance.shape == (5, 5)
    assert np.linalg.eigvalsh(covariance).min() > 0
    assert len(found["points"]) == 20
    assert Path("scaling.png").read_bytes()[1:4] == b"PNG"
    shown = typed("scaling", "fit", table(), "--draws", "20", "--parameters", "non_embedding")
    assert "without tables of tokens" in shown.out
    assert "C = 6 N D" in shown.out
    assert "iso-FLOP parabolas (4 budgets)" in shown.out


def test_a_law_of_one_variable_tells_that_another_varies():
    answer = typed("scaling", "fit", table(), "--draws", "20", "--form", "kaplan_size")
    assert "ALARM       tokens go from" in answer.out
    assert "iso-FLOP" not in answer.out


def test_the_loss_of_a_larger_run_is_predicted_before_it_runs():
    small, large = (POINTS.parameters < POINTS.parameters.max(), np.argmax(POINTS.parameters))
    rows = zip(POINTS.parameters[small], POINTS.tokens[small], POINTS.loss[small], strict=True)
    size, tokens = POINTS.parameters[large], POINTS.tokens[large]
    words = ("--size", str(size), "--tokens", str(tokens), "--draws", "40")
    found = json.loads(typed("scaling", "predict", table(rows=rows), *words, "--json").out)
    assert found["loss"] == pytest.approx(POINTS.loss[large], rel=0.02)
    assert found["low"] < found["loss"] < found["high"]
    assert found["measured"] is None
    shown = typed("scaling", "predict", "points.csv", *words).out
    assert "x the largest of the points" in shown
    assert "9 times in 10" in shown
    assert "--tokens is missing" in refused("scaling", "predict", "points.csv", "--size", "1e6")
    assert "leave --size and --tokens out" in refused(
        "scaling", "predict", "points.csv", *words, "--run", "x"
    )


def test_flops_stand_for_tokens():
    rows = zip(POINTS.parameters, POINTS.flops, POINTS.loss, "x" * 20, strict=True)
    file = table(columns="parameters,flops,loss,kind", rows=rows)
    by_flops = typed("scaling", "fit", file, "--draws", "20", "--json")
    by_tokens = typed("scaling", "fit", table(), "--draws", "20", "--json")
    one, other = (json.loads(a.out)["constants"] for a in (by_flops, by_tokens))
    assert one == pytest.approx(other, rel=1e-5)
    assert "columns that nothing here reads: kind" in by_flops.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size,tokens,loss\n1,2,3", "has the columns size, tokens, loss, and lacks parameters"),
        ("parameters,toks,loss\n1,2,3", r"lacks tokens \(or flops\);.*; toks looks like tokens$"),
        ("parameters;tokens;loss\n1;2;3", "its columns are to be apart by commas"),
        ("parameters,tokens,loss,loss\n1,2,3,4", "loss twice"),
        ("parameters,tokens,loss\n", "has no line below its columns"),
        ("parameters,tokens,loss\n1e6,1e8\n", "line 2 has 2 values for 3 columns"),
        ("parameters,tokens,loss\n1e6,1e8,nan\n", "line 2: loss=nan must be a number above 0"),
        ("parameters,tokens,loss\n1e6,many,3\n", "line 2: tokens=many must be"),
        ("parameters,tokens,loss\n1e6,1e8,3\n2e6,2e8,2.9\n", "2 points for the 5 constants"),
        (
            "parameters,tokens,loss\n" + "\n".join(f"1e6,{d}e8,{3 - d / 20}" for d in range(1, 9)),
            "all 8 points have parameters=1e[+]06.*--form data",
        ),
        (
            "parameters,tokens,flops,loss\n1e6,1e8,6e18,3\n",
            "flops=6e[+]18 is 1e[+]04 x 6 x parameters x tokens.*--flops-within",
        ),
    ],
)
def test_points_that_cannot_work_are_refused_with_what_to_do(text, told):
    assert re.search(told, refused("scaling", "fit", table(text)))


def test_wrong_requests_are_refused():
    assert "neither a CSV file nor" in refused("scaling", "fit", "nowhere", "else")
    assert "can't be read" in refused("scaling", "fit", "nowhere.csv")
    for place in ("nowhere/a.png", "a.nothing"):
        ask = ("scaling", "fit", table(), "--draws", "20", "--picture", place)
        assert "can't be written" in refused(*ask)
    assert "needs a column unique_tokens" in refused(
        "scaling", "fit", table(), "--form", "repeated"
    )
    assert "--draws=3 must be at least 20" in refused("scaling", "fit", table(), "--draws", "3")
    constant = [(n, d, 2 + 1e3 / d**0.4) for n, d in zip(*grid(), strict=True)]
    assert "runs to" in refused("scaling", "fit", table(rows=constant))


def test_a_fit_that_does_not_converge_says_so_and_what_to_do(monkeypatch):
    monkeypatch.setattr(fitting, "ROUNDS", 1)  # the second one tells whether the first had ended
    told = refused("scaling", "fit", table(), "--draws", "20")
    assert re.search(r"none of \d+ starts of L = E \+ A / N\^alpha .* converged within", told)
    assert "give points over a wider range of N and D" in told


def test_run_folders_are_points_and_what_is_none_is_told(corpus):
    for number, own in enumerate(zip(POINTS.parameters, POINTS.tokens, POINTS.loss, strict=True)):
        folder = Path(f"outputs/2026-01-02/03-04-{number:02}-pretrain-abc{number:03}")
        ran(corpus, folder, *own, status="done" if number else "failed")
    answer = typed("scaling", "fit", "outputs", "--draws", "20")
    assert answer.code == 0, answer
    assert "points      19:" in answer.out
    assert "1.17 x 6 N D in the median" in answer.out
    assert "abc000 is no point: it is failed" in answer.err
    sweep = Path("outputs/2026-01-02/09-09-09-sweep-one")
    sweep.mkdir()
    rows = [
        {"time_ms": 1, "trial": i, "event": "started", "folder": f"../{own.name}"}
        for i, own in enumerate(sorted(sweep.parent.glob("*pretrain*"))[5:])
    ]
    (sweep / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "points      15:" in typed("scaling", "fit", str(sweep), "--draws", "20").out
    (failed,) = Path("outputs").glob("*/*-abc000")
    assert "no run there can be a point" in refused("scaling", "fit", str(failed))


def test_the_best_rate_of_each_size_is_told_or_on_which_side_of_those_tried_it_is(corpus):
    outputs, best = Path("outputs/2026-01-02"), {1e5: 4e-3, 1e6: 1e-3, 1e7: 1e-5, 1e8: 1.0}
    own = [(size, rate) for size in best for rate in (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)]
    for number, (size, rate) in enumerate(own):
        folder = outputs / f"03-04-{number:02}-pretrain-abc{number:03}"
        ran(corpus, folder, size, 5e5, 4 + 0.2 * np.log(rate / best[size]) ** 2)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["optim"]["learning_rate"] = rate
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    ask = ("scaling", "best", "outputs", "--of", "optim.learning_rate")
    lines = typed(*ask).out.splitlines()
    told = [line.split("(5)")[1].split() for line in lines[1:5]]
    twice = f"{0.2 * np.log(2) ** 2 / 4:.2%}"
    assert told == [
        ["0.004", "4", twice],
        ["0.001", "4", twice],
        ["0.0005", "or", "less"],
        ["0.008", "or", "more"],
    ]
    law = json.loads(typed(*ask, "--json").out)["law"]
    assert law["by_size"] == pytest.approx(np.log10(1e-3 / 4e-3), rel=1e-6)
    assert lines[5] == f"law         optim.learning_rate = {law['k']:.4g} N^{law['by_size']:.3f}"
    few = [str(folder) for folder in sorted(outputs.iterdir())[:2]]
    assert "too few" in typed(*ask[:2], *few, *ask[3:]).out
    assert "has one value in these runs" in refused(*ask[:2], few[0], *ask[3:])
    assert "--of optim.learning_rate" in refused(*ask[:4], "optim.learning_rat")


def test_an_iso_flop_grid_spends_each_budget_on_four_sizes():
    spent = defaultdict(set)
    for line in typed("sweep", "iso_flop", "--plan").out.splitlines():
        if found := re.match(r"1 +([\d,]+) +(\S+) ", line):
            spent[float(f"{float(found[2]):.1e}")].add(found[1])
    assert {budget: len(sizes) for budget, sizes in spent.items()} == {4e12: 4, 1.6e13: 4}


def test_a_budget_becomes_an_experiment_that_can_be_planned_and_takes_that_budget():
    place = "my_conf/experiment/next.yaml"
    ask = ("scaling", "choose", table(), "--flops", "1e14", "--draws", "20")
    answer = typed(*ask, "--write", place)
    assert answer.code == 0, answer
    assert "1/1e+04 of the smallest budget of the points" in answer.out, "it extrapolates"
    planned = typed(
        *("plan", "experiment=next", "-cd", "my_conf", "resources=cpu1", "tracking=none")
    )
    assert planned.code == 0, planned
    size = re.search(r"model +gpt, ([\d,]+) parameters", planned.out)[1]
    tokens = re.search(r"= ([\d,]+) tokens = ", planned.out)[1]
    six_nd = 6 * int(size.replace(",", "")) * int(tokens.replace(",", ""))
    assert six_nd == pytest.approx(1e14, rel=0.01)
    assert size in Path(place).read_text()
    assert "exists; remove it" in refused(*ask, "--write", place)
    dialled = ("my_conf/experiment/family.yaml", "--dial", "--vocab-size", "1024")
    answer = typed(*ask, "--write", *dialled, "--json")
    assert json.loads(answer.out)["parameters"]["value"] > 1e5
    planned = typed("plan", "experiment=family", "-cd", "my_conf")
    own = re.search(r"model +gpt, ([\d,]+) parameters", planned.out)[1]
    assert f"{own} parameters" in Path(dialled[0]).read_text()


def test_budgets_that_cannot_be_spent_are_refused():
    for flops in ("-1", "0", "nan"):
        assert "must be a number above 0" in refused("scaling", "choose", table(), "--flops", flops)
    ask = ("scaling", "choose", table(), "--flops", "1e14", "--draws", "20")
    assert "must be FOLDER/experiment/NAME.yaml" in refused(*ask, "--write", "next.yaml")
    write = ("--write", "a/experiment/b.yaml")
    assert "needs a law of all parameters" in refused(*ask, *write, "--parameters", "non_embedding")
    assert "less than a step" in refused(*ask, *write, "--batch", "1000000")
