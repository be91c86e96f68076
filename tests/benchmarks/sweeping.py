"""How many trials an hour a sweep makes of short jobs, beside other launchers of the same jobs.

    python tests/benchmarks/sweeping.py                        # 32 trials, with their MLflow record
    python tests/benchmarks/sweeping.py --tracking none        # the jobs alone
    python tests/benchmarks/sweeping.py --part asha            # steps of ASHA / steps of the grid
    python tests/benchmarks/sweeping.py --part record          # the table of 1,000 trials

Every contender carries out the same 32 jobs, `execute` of the same config, two at a time, and is a
process of its own, from its start to its end:

sweep           orchestrate sweep
hydra-joblib    Hydra's multirun with hydra-joblib-launcher (pip install hydra-joblib-launcher)
joblib          Parallel of joblib, without Hydra's part
ray-tune        a Tuner of ray[tune] with a grid

Their results must be equal, number for number. Rounds are interleaved; ratios are of trials per
hour, and of CPU seconds of the whole process tree, which a loaded machine changes less.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

RATES = ("3e-4", "1e-3", "2e-3", "4e-3", "8e-3", "1.6e-2", "3.2e-2", "6.4e-2")
HIDDEN = ("[16]", "[32]", "[64]", "[32,32]")
JOB = (
    *("experiment=small", "stage=classify", "optim=adam", "stage.steps=60"),
    *("stage.evaluate_every=20", "stage.checkpoint_every=null", "optim.warmup_steps=0"),
    *("resources=inline", "resources.cpus_per_worker=1"),
)
ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # in place of this folder, whose names are not those of modules
METRIC = "validation/loss"


def main() -> None:
    """Time the contenders one after another, in rounds; or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["launchers", "asha", "record"], default="launchers")
    parser.add_argument("--only", help="contenders, with commas")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tracking", choices=["mlflow", "none"], default="mlflow")
    parser.add_argument("--rates", type=int, default=len(RATES), help="4 trials for each")
    parser.add_argument("--be", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--outputs", type=Path, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    rates = RATES[: options.rates]
    if options.be:
        sys.argv[1:] = rest
        CONTENDERS[options.be](job(options.outputs, options.tracking), rates, options.outputs)
    elif options.part == "asha":
        asha()
    elif options.part == "record":
        record()
    else:
        launchers(options.rounds, options.only, options.tracking, rates)


def launchers(rounds: int, only: str | None, tracking: str, rates: Sequence[str]) -> None:
    """Trials per hour of each contender, and the same results."""
    names = only.split(",") if only else list(CONTENDERS)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    found = {}
    for _ in range(rounds):
        for name in names:
            with tempfile.TemporaryDirectory(prefix="sweeping-") as folder:
                begun, used = time.monotonic(), _children()
                words = ["--be", name, "--outputs", folder, "--tracking", tracking]
                words += [f"--rates={len(rates)}"]
                if name == "hydra-joblib":
                    words += ["-m"]
                with (Path(folder) / "log").open("wb") as log:
                    process = subprocess.run(
                        [sys.executable, "-P", __file__, *words],
                        env={**os.environ, "PYTHONPATH": _path()},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        check=False,
                    )
                if process.returncode:
                    print(f"{name}: exit code {process.returncode}")
                    print((Path(folder) / "log").read_text()[-2000:])
                    return
                taken[name].append((time.monotonic() - begun, _children() - used))
                found[name] = _results(Path(folder))
                print(f"{name:13} {taken[name][-1][0]:6.1f} s  {taken[name][-1][1]:6.1f} s of CPU")
    first = found[names[0]]
    trials = len(rates) * len(HIDDEN)
    assert len(first) == trials, len(first)
    for name in names:
        wall, cpu = (statistics.median(own) for own in zip(*taken[name], strict=True))
        base = [statistics.median(own) for own in zip(*taken[names[0]], strict=True)]
        print(
            f"{name:13} {3600 * trials / wall:8,.0f} trials an hour; sweep / it "
            f"{wall / base[0]:.2f} in trials an hour, {cpu / base[1]:.2f} in CPU; "
            f"same results: {found[name] == first}"
        )


def _path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _children() -> float:
    """CPU seconds of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _results(folder: Path) -> dict[str, float]:
    """The loss of each trial by what it differs in."""
    from orchestrator.record.runs import runs

    return {
        f"{run.settings['optim.learning_rate']} {run.settings['model.hidden']}": run.metrics[METRIC]
        for run in runs(folder)
    }


def job(outputs: Path, tracking: str) -> list[str]:
    """What all trials have in common."""
    record = ["tracking=none"] if tracking == "none" else ["tracking.system_metrics=false"]
    return [*JOB, f"outputs={outputs}", *record]


def trial(words: list[str]) -> None:
    """One trial, as every other launcher calls it: `orchestrate run` in this process."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()  # of the app that calls
    plugins = sys.modules.get("hydra_plugins")
    from orchestrator.compose import compose_one
    from orchestrator.job.execute import execute

    config = compose_one(words)
    if plugins is not None:  # which our composition hides, and the launcher is one
        sys.modules["hydra_plugins"] = plugins
    code = execute(config, words, time.monotonic())
    assert code == 0, code


def be_sweep(common: Sequence[str], rates: Sequence[str], outputs: Path) -> None:
    """Orchestrate sweep."""
    from orchestrator import cli

    axes = [f"optim.learning_rate={','.join(rates)}", f"model.hidden={','.join(HIDDEN)}"]
    sys.argv[1:] = ["sweep", *common, *axes]
    cli.main()


def be_hydra_joblib(common: Sequence[str], rates: Sequence[str], outputs: Path) -> None:
    """Hydra's multirun, with its joblib launcher."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig

    ConfigStore.instance().store("bench", {"rate": None, "hidden": None})

    @hydra.main(version_base="1.3", config_name="bench", config_path=None)
    def app(config: DictConfig) -> None:
        trial([*common, f"optim.learning_rate={config.rate}", f"model.hidden={config.hidden}"])

    quoted = ",".join(f"'{own}'" for own in HIDDEN)
    each = ",".join(f"'{own}'" for own in rates)
    sys.argv[1:] += [
        "hydra/launcher=joblib",
        *("hydra.launcher.n_jobs=2", f"hydra.sweep.dir={outputs}/hydra"),
        *(f"rate={each}", f"hidden={quoted}"),
    ]
    app()


def be_joblib(common: Sequence[str], rates: Sequence[str], outputs: Path) -> None:
    """Joblib's processes."""
    from joblib import Parallel, delayed

    Parallel(n_jobs=2)(
        delayed(trial)([*common, f"optim.learning_rate={rate}", f"model.hidden={hidden}"])
        for rate in rates
        for hidden in HIDDEN
    )


def be_ray_tune(common: Sequence[str], rates: Sequence[str], outputs: Path) -> None:
    """Ray Tune."""
    import ray
    from ray import tune

    def trainable(config: dict[str, str]) -> None:
        own = [f"optim.learning_rate={config['rate']}", f"model.hidden={config['hidden']}"]
        trial([*common, *own])
        tune.report({"done": 1})

    # A cluster of its own in a folder of its own: Ray would go to whichever one this machine has
    # had last, which /tmp/ray remembers also when it is gone. The paths of its sockets are short.
    own = tempfile.TemporaryDirectory(prefix="tune-", dir="/tmp", ignore_cleanup_errors=True)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        _temp_dir=own.name,
    )
    space = {"rate": tune.grid_search(list(rates)), "hidden": tune.grid_search(list(HIDDEN))}
    found = tune.Tuner(
        trainable,
        param_space=space,
        run_config=tune.RunConfig(storage_path=str(outputs / "tune"), verbose=0),
    ).fit()
    assert not found.errors, found.errors[:1]
    ray.shutdown()
    own.cleanup()


CONTENDERS = {
    "sweep": be_sweep,
    "hydra-joblib": be_hydra_joblib,
    "joblib": be_joblib,
    "ray-tune": be_ray_tune,
}


def record() -> None:
    """Time for the table of 1,000 trials with ten reports each, by wall clock."""
    from orchestrator.verbs.sweep.table import Table

    with tempfile.TemporaryDirectory(prefix="sweeping-") as folder, Table(Path(folder)) as table:
        begun = time.monotonic()
        for number in range(1000):
            point = {"optim.learning_rate": 1e-3, "model.hidden": "[64]"}
            table.write("proposed", number, point=point, words=list(JOB), attributes={})
            table.write("started", number, folder="../12-00-00-classify-123456")
            for step in range(10):
                table.write("report", number, step=step, value=0.5)
            ended = {"status": "done", "values": [0.5], "excess": [], "steps": 10, "message": None}
            table.write("ended", number, **ended)
        taken = time.monotonic() - begun
    print(
        f"{taken:.2f} s for 1,000 trials: {taken:.1f} ms each, 1% of {taken / 10:.2f} s per trial"
    )


def asha() -> None:
    """Steps of ASHA and of the whole grid until they have found their best, and how good it is."""
    found = {}
    for pruner in ("none", "asha"):
        with tempfile.TemporaryDirectory(prefix="sweeping-") as folder:
            words = [*JOB, f"outputs={folder}", "tracking=none", "stage.steps=320"]
            words += ["stage.evaluate_every=5", f"pruner={pruner}", "seed=1", "name=bench"]
            words += [f"optim.learning_rate={','.join(RATES)}", f"model.hidden={','.join(HIDDEN)}"]
            subprocess.run(
                [sys.executable, "-m", "orchestrator", "sweep", *words],
                env={**os.environ, "PYTHONPATH": _path()},
                check=True,
                stdout=subprocess.DEVNULL,
            )
            (report,) = Path(folder).glob("*/*-sweep-bench/report.json")
            found[pruner] = json.loads(report.read_text())
    for pruner, own in found.items():
        best = own["best"][0]
        print(f"{pruner:5} {own['steps']:6,} steps  {best['values'][0]:.4f}  {best['point']}")
    print(
        f"steps of asha / steps of the grid: {found['asha']['steps'] / found['none']['steps']:.2f}"
    )


if __name__ == "__main__":
    main()
