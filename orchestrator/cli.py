"""The command line: `orchestrate VERB [overrides] [Hydra flags]`.

1. The verb is taken off the arguments and looked up in VERBS.
2. A verb that takes a config goes through `hydra.main`, so that overrides, `--cfg job`, `--help`,
   `--multirun` and `-cd` are as in any Hydra app; the others parse their own arguments, and
   `data` has arguments and, where it needs one, a config.
3. The composed config becomes a JobConfig, whose construction checks it; under --multirun all
   jobs are checked before the first starts.
4. The verb is called with each job. What it refuses (ValueError) ends with exit code 2.

Precedence, lowest first: defaults of the dataclasses, the YAML of each chosen group, the
experiment, the command line. `orchestrate run experiment=gpt2_124m_8gpu stage.steps=10` takes
everything from the experiment except the steps.

The only file that imports hydra. Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted.
"""

import contextlib
import difflib
import importlib
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.config import JobConfig

INTERRUPTED = 130
OPEN = (r"data\.datasets", r"data\.contract\.columns")


@dataclass(frozen=True)
class Verb:
    """One verb: what it says of itself in `--help`, its module, and what its `main` is called with.

    config: `main(config, overrides, since)`, once for each job; `since` is the time at which the
        job was asked for: that of Enter, or of the end of the job before it in a sweep.
    either: `main(argv, compose)`; `compose(overrides)` is the job of these overrides.
    arguments: `main(argv)`.
    """

    summary: str
    module: str
    takes: str = "arguments"


VERBS = {
    "run": Verb("run a job here or on the cluster in RAY_ADDRESS", "run", "config"),
    "plan": Verb("check a job and say what it will do; starts nothing", "plan", "config"),
    "data": Verb("make, look at, check and trace the data of a job", "data", "either"),
    "generate": Verb("write text with the model of a run or checkpoint", "generate"),
    "ui": Verb("open the record of all runs in the MLflow UI", "ui"),
    "doctor": Verb("look at this machine: what is there, what is missing, what to type", "doctor"),
}


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0)
    name, rest = arguments[0], arguments[1:]
    if name in ("-sc", "--shell-completion"):
        sys.exit(complete(rest))
    if name not in VERBS:
        refuse(_no_verb(name))
    verb = VERBS[name]
    try:
        code = _call(verb, rest)
    except ValueError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        refuse(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(code)


def _call(verb: Verb, arguments: Sequence[str]) -> int:
    if verb.takes == "config":
        return run_with_config(verb, arguments)
    if verb.takes == "either":
        return _function(verb)(arguments, _compose_one)
    return _function(verb)(arguments)


def usage() -> str:
    """What `orchestrate --help` prints."""
    lines = ["orchestrate VERB [overrides] [flags]", ""]
    lines += [f"  {name:10}{verb.summary}" for name, verb in VERBS.items()]
    lines += [
        "",
        "orchestrate run                              the quick start: train a small GPT here",
        "orchestrate run model=gpt_10m stage.steps=50 choose from a group, set one value",
        "orchestrate run --help                       groups, choices and every setting",
        'eval "$(orchestrate -sc install=bash)"       completion in this shell; also zsh, fish',
    ]
    return "\n".join(lines)


def refuse(message: str) -> None:
    """Say what is wrong with the request and exit with 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def run_with_config(verb: Verb, arguments: Sequence[str]) -> int:
    """Compose the jobs and call the verb with each; returns the largest exit code.

    Raises:
        ValueError: a job can't work. Under --multirun all are checked before the first starts.
    """
    jobs = compose(arguments)
    if len(jobs) > 1:
        from orchestrator.plan import validate

        for config, overrides in jobs:
            try:
                validate(config, print)
            except ValueError as error:
                raise ValueError(f"in the job {' '.join(overrides)}: {error}") from error
    code, since = 0, psutil.Process().create_time()
    for config, overrides in jobs:
        if len(jobs) > 1:
            print(f"\njob {' '.join(overrides)}", flush=True)
        code = max(code, _function(verb)(config, overrides, since))
        since = time.time()
        if code == INTERRUPTED:
            break
    return code


def _whole(word: str) -> str:
    """A setting of one dataset of a mixture as one of `data.datasets`, which may have no such name.

    data.datasets.a.weight=2 becomes data.datasets={a: {weight: 2}}: Hydra merges it with what
    there is. Several values, for a sweep, stay as they are.
    """
    found = re.match(r"^\+*data\.datasets\.([\w.]+)=(\{.*|[^,]*)$", word)
    if found is None:
        return word
    value = found[2]
    for part in reversed(found[1].split(".")):
        value = f"{{{part}: {value}}}"
    return f"data.datasets={value}"


def _compose_one(overrides: Sequence[str]) -> "JobConfig":
    jobs = compose(overrides)
    if len(jobs) != 1:
        raise ValueError(f"{' '.join(overrides)}: give one job; --multirun is for run and plan")
    return jobs[0][0]


def compose(arguments: Sequence[str]) -> list[tuple["JobConfig", list[str]]]:
    """The jobs that the arguments ask for, each with its overrides; none for --cfg and --info.

    Raises:
        ValueError: with one message for whatever Hydra, OmegaConf or a check of ours has said.
        SystemExit: after --help.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from orchestrator import refusal

    jobs: list[tuple[JobConfig, list[str]]] = []
    refused: list[str] = []

    def collect(composed: "DictConfig") -> None:
        overrides = list(HydraConfig.get().overrides.task)
        parsed = OverridesParser.create().parse_overrides(overrides)
        try:
            refusal.check_known(composed)
            refusal.check_mixture(composed, HydraConfig.get().runtime.choices)
            refusal.check_switches(composed, ((o.key_or_group, o.value()) for o in parsed))
            jobs.append((OmegaConf.to_object(composed), overrides))  # type: ignore[arg-type]
        except (OmegaConfBaseException, ValueError) as error:
            many = HydraConfig.get().mode is RunMode.MULTIRUN
            where = f"in the job {' '.join(overrides)}: " if many else ""
            refused.append(where + refusal.explain(error))

    register()
    # Overrides first, so that flags may stand between them. The experiment is in the defaults
    # list, where Hydra wants no +, but every tutorial of Hydra types it.
    words = [re.sub(r"^\+experiment=", "experiment=", word) for word in arguments]
    # Names of datasets and columns are the user's own, which Hydra takes only after ++.
    words = [re.sub(rf"^\+*(?=({'|'.join(OPEN)})[.=])", "++", _whole(word)) for word in words]
    ordered = sorted(words, key=lambda word: word.startswith("-") or "=" not in word)
    app = hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")(collect)
    try:
        with _hydra_in_a_box([sys.argv[0], *ordered]):
            app()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(refusal.explain(error)) from error
    if refused:
        raise ValueError(refused[0])
    return jobs


@contextlib.contextmanager
def _hydra_in_a_box(argv: list[str]) -> Iterator[None]:
    """Let Hydra see these arguments, raise its errors, say nothing, and leave no file behind."""
    from omegaconf import OmegaConf

    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    said = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
        # The sweeper writes multirun.yaml there (conf/config.yaml).
        OmegaConf.register_new_resolver("temporary", lambda: folder, replace=True)
        sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
        try:
            with contextlib.redirect_stderr(said):
                yield
        except SystemExit as stopped:
            if stopped.code == 2:  # argparse, which has printed all flags before what was wrong
                wrong = said.getvalue().strip().rpartition("error: ")[2]
                raise ValueError(f"{wrong}; `orchestrate run --hydra-help` lists flags") from None
            raise
        finally:
            sys.argv = before
            os.environ.pop("HYDRA_FULL_ERROR")
            if full_error is not None:
                os.environ["HYDRA_FULL_ERROR"] = full_error
    sys.stderr.write(said.getvalue())


def register() -> None:
    """Tell Hydra the schema of each group, and OmegaConf the resolvers of conf/."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from models import MODELS
    from orchestrator.config import SECTIONS, STAGE_CONFIGS, JobConfig
    from orchestrator.refusal import SCHEMA
    from orchestrator.resources import automatic

    OmegaConf.register_new_resolver(
        "ray_address", lambda: os.environ.get("RAY_ADDRESS") or None, replace=True
    )
    OmegaConf.register_new_resolver("auto", automatic, replace=True)
    OmegaConf.register_new_resolver("choices", choices, replace=True)
    store = ConfigStore.instance()
    store.store(name="job", node=JobConfig)
    for group, node in SECTIONS.items():
        store.store(group=group, name=group + SCHEMA, node=node)
    for name, stage in STAGE_CONFIGS.items():
        store.store(group="stage", name=name + SCHEMA, node=stage)
    for family, model in MODELS.items():
        store.store(group="model", name=family + SCHEMA, node=model)


@cache
def choices() -> str:
    """Each group with its choices and the first comment of their files, for --help."""
    lines = []
    for folder in sorted(path for path in _conf().iterdir() if path.is_dir()):
        for file in sorted(folder.glob("*.yaml")):
            first = file.read_text(encoding="utf-8").splitlines()
            comment = next((line for line in first if line[:2] == "# " and line[2] != "@"), "# ")
            lines.append(f"  {f'{folder.name}={file.stem}':30} {comment[2:]}")
    return "\n".join(lines).replace("$", "$$")


def _conf() -> Path:
    import conf

    return Path(conf.__path__[0])


def complete(arguments: Sequence[str]) -> int:
    """Shell completion: `-sc install=SHELL` prints what to eval, `-sc query` answers."""
    from orchestrator import completion
    from orchestrator.refusal import SCHEMA

    request, _, shell = (arguments[0] if arguments else "").partition("=")
    if request == "install" and shell in completion.SHELLS:
        print(completion.SHELLS[shell])
        return 0
    if request != "query":
        refuse(f"-sc takes install=SHELL; try -sc install={', '.join(completion.SHELLS)}")
    line, point = os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT")
    words = completion.split(line, int(point) if point else None)
    verb = VERBS.get(words[1]) if len(words) > 1 else None
    if len(words) == 2:
        print(completion.matching(words[1], VERBS))
    elif verb is not None and verb.takes != "arguments" and words[-1].startswith("-"):
        print(completion.matching(words[-1], completion.FLAGS))
    elif verb is not None and verb.takes != "arguments":
        found = io.StringIO()
        overrides = [word for word in words[2:-1] if not word.startswith("-")]
        os.environ["COMP_LINE"] = " ".join([words[0], *overrides, words[-1]])
        with contextlib.redirect_stdout(found):
            compose(["-sc", "query=bash"])
        names = [name for name in found.getvalue().split() if not name.endswith(SCHEMA)]
        print(completion.matching(words[-1], names))
    return 0


def _no_verb(name: str) -> str:
    near = difflib.get_close_matches(name, VERBS, n=1)
    if "=" in name:
        return f"{name}: a verb comes first; try orchestrate run {name}"
    hint = f"did you mean {near[0]}?" if near else f"verbs: {', '.join(VERBS)}"
    return f"{name} is not a verb; {hint}"


def _function(verb: Verb) -> Callable[..., int]:
    function: Callable[..., int] = importlib.import_module(f"orchestrator.verbs.{verb.module}").main
    return function
