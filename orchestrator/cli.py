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

Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted.
"""

import contextlib
import importlib
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.terminal import leave_reader, prepare_streams, say

INTERRUPTED = 130
UNREAD = 141  # whoever read the output has left; what a shell says of any program then


@dataclass(frozen=True)
class Verb:
    """One verb: what it says of itself in `--help`, its module, and what its `main` is called with.

    config: `main(config, overrides, asked)`, once for each job; `asked` is when the job was asked
        for, by `time.monotonic`: at Enter, or at the end of the job before it in a sweep.
    either: `main(argv, compose)`; `compose(overrides)` is the job of these overrides.
    arguments: `main(argv)`.
    """

    summary: str
    module: str
    takes: str = "arguments"
    flags: tuple[str, ...] = ()
    """Words of its own beside a config; `main` gets each by its name, as true or false."""


VERBS = {
    "run": Verb("run a job here or on the cluster in RAY_ADDRESS", "run", "config"),
    "plan": Verb(
        "check a job and say what it will do; starts nothing", "plan", "config", ("--with-data",)
    ),
    "data": Verb("make, look at, check and trace the data of a job", "data.command", "either"),
    "generate": Verb("write text with the model of a run or checkpoint", "generate"),
    "export": Verb("put the weights of a run into a folder for others", "export"),
    "ui": Verb("open the record of all runs in the MLflow UI", "ui"),
    "sync": Verb("send what MLflow lacks of runs, after an outage or a crash", "sync"),
    "doctor": Verb("look at this machine: what is there, what is missing, what to type", "doctor"),
}


def main() -> None:
    """Entry point of the console script."""
    prepare_streams()
    try:
        try:
            _main()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        leave_reader()  # also of what could not be written
        if isinstance(error, BrokenPipeError):
            sys.exit(UNREAD)
        say(f"error: {error}", sys.stderr)
        sys.exit(1)


def _main() -> None:
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
        from orchestrator.compose import compose_one

        return _function(verb)(arguments, compose_one)
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
    say(f"error: {message}", sys.stderr)
    sys.exit(2)


def run_with_config(verb: Verb, arguments: Sequence[str]) -> int:
    """Compose the jobs and call the verb with each; returns the largest exit code.

    Raises:
        ValueError: a job can't work. Under --multirun all are checked before the first starts.
    """
    from orchestrator.compose import compose
    from orchestrator.job.startup import age_of_process

    flags = {f.strip("-").replace("-", "_"): f in arguments for f in verb.flags}
    jobs = compose([word for word in arguments if word not in verb.flags])
    if len(jobs) > 1 and verb is not VERBS["plan"]:  # which starts nothing
        from orchestrator.plan.planning import make_plan

        for number, (config, overrides) in enumerate(jobs):
            try:
                # Its config names what `outputs/latest` means now, not after the first job.
                jobs[number] = make_plan(config, print).config, overrides
            except ValueError as error:
                raise ValueError(f"in the job {' '.join(overrides)}: {error}") from error
    code, asked = 0, time.monotonic() - age_of_process()
    for config, overrides in jobs:
        if len(jobs) > 1:
            print(f"\njob {' '.join(overrides)}", flush=True)
        code = max(code, _function(verb)(config, overrides, asked, **flags))
        asked = time.monotonic()
        if code == INTERRUPTED:
            break
    return code


def complete(arguments: Sequence[str]) -> int:
    """Shell completion: `-sc install=SHELL` prints what to eval, `-sc query` answers."""
    from orchestrator.compose import completion, compose
    from orchestrator.compose.refusal import SCHEMA

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
    from data.messages import did_you_mean

    if "=" in name:
        return f"{name}: a verb comes first; try orchestrate run {name}"
    hint = did_you_mean(name, VERBS) or f"; verbs: {', '.join(VERBS)}"
    return f"{name} is not a verb{hint}"


def _function(verb: Verb) -> Callable[..., int]:
    function: Callable[..., int] = importlib.import_module(f"orchestrator.verbs.{verb.module}").main
    return function
