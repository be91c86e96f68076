"""The command line: `orchestrate VERB [overrides] [Hydra flags]`.

1. The verb is taken off the arguments and looked up in VERBS.
2. A verb that takes a config has it composed by Hydra, so that overrides, `--cfg job`, `--help`,
   `--multirun` and `-cd` are as in any Hydra app; the others parse their own arguments, and
   `data` has arguments and, where it needs one, a config.
3. The composed config becomes a JobConfig, whose construction checks it; under --multirun all
   jobs are checked before the first starts.
4. The verb is called with each job. What it refuses (ValueError) ends with exit code 2, any other
   error with 1; each in one line, or with its traceback if HYDRA_FULL_ERROR=1.

Precedence, lowest first: defaults of the dataclasses, the YAML of each chosen group, the
experiment, the command line. `orchestrate run experiment=gpt2_124m_8gpu stage.steps=10` takes
everything from the experiment except the steps.

Exit codes: orchestrator/job/codes.py.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator import BEGUN
from orchestrator.job.codes import FAILED, INTERRUPTED, REFUSED, STOPPED
from orchestrator.job.signals import handled, interrupt
from orchestrator.terminal import leave_reader, prepare_streams, say

OURS = ("orchestrator", "data", "models", "cluster")


@dataclass(frozen=True)
class Verb:
    """One verb: what it says of itself in `--help`, its module, and what its `main` is called with.

    config: `main(config, overrides, asked)`, once for each job; `asked` is when the job was asked
        for, by `time.monotonic`: at Enter, or at the end of the job before it in a sweep.
    either: `main(argv, compose)`; `compose(overrides)` is the job of these overrides.
    defaults: `main(argv, defaults)`; `defaults(stage)` is the config of a job that says no more.
    sweep: `main(argv, composing)`; `composing(folder)` reads a search space and composes trials.
    arguments: `main(argv)`.
    """

    summary: str
    module: str
    takes: str = "arguments"
    flags: tuple[str, ...] = ()
    """Words of its own beside a config; `main` gets each by its name, as true or false."""
    words: tuple[str, ...] = ()
    """Names of its own words NAME=VALUE beside a config; `main` gets each value, or None."""


VERBS = {
    "run": Verb(
        "run a job here or on the cluster in RAY_ADDRESS; --detach: in the queue",
        "run",
        "config",
        ("--detach",),
    ),
    "plan": Verb(
        "what a job will do, take and cost; gpu=NAME there; fit=true finds the fastest that fits",
        "plan",
        "config",
        ("--with-data",),
        ("gpu", "mfu", "prices", "fit"),
    ),
    "data": Verb("make, look at, check and trace the data of a job", "data.command", "either"),
    "pipeline": Verb(
        "jobs in order, each a run, one on the result of another", "pipeline", "either"
    ),
    "sweep": Verb(
        "the best values of some settings, by many jobs: samplers, pruners, report",
        "sweep.command",
        "sweep",
    ),
    "scaling": Verb(
        "scaling laws from runs or a table: constants, intervals, picture", "scaling.command"
    ),
    "up": Verb("start a cluster on this machine: Ray, MLflow, a queue of jobs", "up"),
    "down": Verb("end it; what runs saves a checkpoint first", "down"),
    "status": Verb("what is up where, what is free; or why a job waits", "status"),
    "submit": Verb("put a job into the queue of the cluster", "submit", "either"),
    "jobs": Verb("list the jobs of the queue", "jobs"),
    "top": Verb("the cluster on a live page: nodes, jobs, their speed and loss", "top"),
    "logs": Verb("what a job of the queue shows, or one of its ranks says", "logs"),
    "stop": Verb("end a job of the queue, with a checkpoint", "stop"),
    "resume": Verb("let a job of the queue that was stopped go on", "resume"),
    "quota": Verb("what the jobs of an owner or a project may hold at any time", "quota"),
    "runs": Verb("list the runs: newest or best first, by stage, status or setting", "runs"),
    "show": Verb("all about one run on one screen", "show", "defaults"),
    "compare": Verb("how runs differ: settings, data, code, curves; in a band or not", "compare"),
    "rerun": Verb("a run once more with its own code, and whether the same comes out", "rerun"),
    "why": Verb("the story of a run: how it ended, what was lost, where the time went", "why"),
    "audit": Verb("check what a policy learns from before a long run of it", "audit", "config"),
    "rollouts": Verb("what a policy has answered in a step, and what that was worth", "rollouts"),
    "drill": Verb(
        "rehearse failures on your own job: kill, freeze, fill, flip", "drill.command", "either"
    ),
    "describe": Verb(
        "take a model apart: shapes, parameters, costs, memory, a drawing",
        "describe.command",
        "either",
    ),
    "generate": Verb("write text with the model of a run or checkpoint", "generate.command"),
    "attend": Verb("draw who attends to whom in a text, head by head", "attend"),
    "label": Verb("people compare answers, or rate them, on a page", "label.command"),
    "search": Verb("find the lines of a file that are nearest to a query, by a model", "search"),
    "checkpoint": Verb(
        "list, verify, compare, export and copy the checkpoints of runs", "checkpoint.command"
    ),
    "export": Verb("put the weights of a run into a folder for others", "export"),
    "prune": Verb("take weights, heads or neurons that count least out of a model", "prune"),
    "ui": Verb("open the record of all runs in the MLflow UI", "ui"),
    "sync": Verb("send what MLflow lacks of runs, after an outage or a crash", "sync"),
    "cache": Verb("list what is kept of data, and prune what no run has used for long", "cache"),
    "doctor": Verb("look at this machine: what is there, what is missing, what to type", "doctor"),
}


def main() -> None:
    """Entry point of the console script."""
    prepare_streams()
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - a user without a name: pathlib raises
        os.environ["HOME"] = "/"  # as containers have it; libraries ask for it, too
    try:
        try:
            _main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # of `| head`, which has seen enough
        leave_reader()
        sys.exit(FAILED)
    except OSError as error:  # a full disk behind the output
        leave_reader()
        say(f"error: the output can't be written: {error}", sys.stderr)
        sys.exit(FAILED)


def _main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0)
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(version())
        sys.exit(0)
    if name in ("-sc", "--shell-completion"):
        sys.exit(complete(rest))
    if name not in VERBS:
        refuse(_no_verb(name))
    verb = VERBS[name]
    try:
        _check_encoding(rest)
        _keep_out_of_home()
        with handled(interrupt):  # SIGTERM and a lost terminal end a verb as Ctrl-C does
            code = _call(verb, rest)
    except BrokenPipeError:
        raise  # what a job meets on its connections, it explains
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if isinstance(error, ValueError) and _is_ours(error):
            refuse(str(error))
        from orchestrator.job.failures import explain_failure

        refuse(explain_failure(error, resumable=False).line(), FAILED)
    except KeyboardInterrupt:
        sys.exit(STOPPED if name == "run" else INTERRUPTED)
    sys.exit(code)


def _call(verb: Verb, arguments: Sequence[str]) -> int:
    if verb.takes == "config":
        return run_with_config(verb, arguments)
    if verb.takes == "either":
        from orchestrator.compose import compose_one

        return _function(verb)(arguments, compose_one)
    if verb.takes == "sweep":
        from orchestrator.compose.sweeping import Sweeping

        return _function(verb)(arguments, Sweeping)
    if verb.takes == "defaults":
        from orchestrator.compose import defaults

        return _function(verb)(arguments, defaults)
    return _function(verb)(arguments)


def _keep_out_of_home() -> None:
    """Let Matplotlib keep its list of fonts in our cache, here and in all that is started."""
    from data.files import DataError, cache_root

    with contextlib.suppress(DataError):  # there is no cache, and whoever needs it says so
        os.environ.setdefault("MPLCONFIGDIR", str(cache_root() / "matplotlib"))


def version() -> str:
    """The version of the package; of its source tree where it is not installed."""
    from importlib import metadata

    try:
        return f"orchestrate {metadata.version('orchestrate')}"
    except metadata.PackageNotFoundError:
        return "orchestrate, not installed: run from its source"


def usage() -> str:
    """What `orchestrate --help` prints."""
    lines = ["orchestrate VERB [overrides] [flags]", ""]
    lines += [f"  {name:12}{verb.summary}" for name, verb in VERBS.items()]
    lines += [
        "",
        "orchestrate run                                the quick start: train a small GPT here",
        "orchestrate run model=gpt_10m stage.steps=50   choose from a group, set one value",
        "orchestrate run --help                         groups, choices and every setting",
        "orchestrate runs --best loss                   the runs there are, best first",
        'eval "$(orchestrate -sc install=bash)"         completion in this shell; also zsh, fish',
    ]
    return "\n".join(lines)


def refuse(message: str, code: int = REFUSED) -> None:
    """Say what is wrong with the request, cut short and without secrets, and exit with 2."""
    from data.messages import shortened
    from orchestrator.record.redaction import Redactor

    say(f"error: {shortened(Redactor({}).known(message))}", sys.stderr)
    sys.exit(code)


def run_with_config(verb: Verb, arguments: Sequence[str]) -> int:
    """Compose the jobs and call the verb with each; returns the largest exit code.

    Raises:
        ValueError: a job can't work. Under --multirun all are checked before the first starts.
    """
    from orchestrator.compose import compose
    from orchestrator.verbs.sweep import in_order

    flags = {f.strip("-").replace("-", "_"): f in arguments for f in verb.flags}
    given = [word.partition("=") for word in arguments]
    words = {name: value for name, equals, value in given if equals and name in verb.words}
    own = {*verb.flags, *(f"{name}={value}" for name, value in words.items())}
    jobs = compose([word for word in arguments if word not in own])
    function = partial(_function(verb), **flags, **dict.fromkeys(verb.words) | words)
    if len(jobs) > 1:
        return in_order.carry_out(jobs, function, BEGUN, starts=verb is VERBS["run"])
    return max((function(config, words, BEGUN) for config, words in jobs), default=0)


def complete(arguments: Sequence[str]) -> int:
    """Shell completion: `-sc install=SHELL` prints what to eval, `-sc query` answers."""
    from orchestrator.compose import completion

    request, _, shell = (arguments[0] if arguments else "").partition("=")
    if request == "install" and shell in completion.SHELLS:
        print(completion.SHELLS[shell])
        return 0
    if request != "query":
        refuse(f"-sc takes install=SHELL; try -sc install={', '.join(completion.SHELLS)}")
    line, point = os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT")
    words = completion.split(line, int(point) if point else None)
    verb = VERBS.get(words[1]) if len(words) > 1 else None
    found: Iterable[str] = ()
    if len(words) == 2:
        found = [*VERBS, "--help", "--version"]
    elif verb is not None:
        with contextlib.suppress(Exception):  # of what is half typed; a shell shows nothing then
            if verb.takes == "config":
                own = (f"{name}=" for name in verb.words)
                found = [*completion.of_overrides(words[2:]), *verb.flags, *own]
            elif verb.takes == "sweep":
                found = completion.of_sweep(words[2:])
            elif verb.takes == "either" and (len(words) > 3 or verb is VERBS["submit"]):
                found = completion.of_overrides([w for w in words[3:-1] if "=" in w] + words[-1:])
            if verb.takes != "config":
                parser = importlib.import_module(f"orchestrator.verbs.{verb.module}").parser()
                found = [*completion.of_arguments(parser, words[2:]), *found]
    print(completion.matching(words[-1], found))
    return 0


def _no_verb(name: str) -> str:
    from data.messages import did_you_mean

    if "=" in name:
        return f"{name}: a verb comes first; try orchestrate run {name}"
    hint = did_you_mean(name, VERBS) or f"; verbs: {', '.join(VERBS)}"
    return f"{name} is not a verb{hint}"


def _function(verb: Verb) -> Callable[..., int]:
    function: Callable[..., int] = importlib.import_module(f"orchestrator.verbs.{verb.module}").main
    return function


def _is_ours(error: ValueError) -> bool:
    """Whether the message was written for the user, and did not come out of a library."""
    if type(error) is not ValueError:
        return type(error).__module__.partition(".")[0] in OURS
    raised = error.__traceback__
    while raised is not None and raised.tb_next is not None:
        raised = raised.tb_next
    module = raised.tb_frame.f_globals.get("__name__", "") if raised else ""
    return module.partition(".")[0] in OURS


def _check_encoding(arguments: Sequence[str]) -> None:
    """Raise ValueError for bytes that are no text: no config and no record can hold them."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{os.fsencode(word)!r} is no UTF-8; rename the file, or type the text in UTF-8"
            ) from None
