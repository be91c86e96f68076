"""The command line: `orchestrate VERB [overrides] [Hydra flags]`.

1. The verb is taken off the arguments and looked up in VERBS.
2. A verb that takes a config goes through `hydra.main`, so that overrides, `--cfg job`, `--help`,
   `--multirun` and config errors are as in any Hydra app; the others parse their own arguments.
3. The composed config becomes a JobConfig, whose construction checks it.

Precedence, lowest first: defaults of the dataclasses, the YAML of each chosen group, the
experiment, the command line. `orchestrate run experiment=gpt2_124m_8gpu stage.steps=10` takes
everything from the experiment except the steps.

The only file that imports hydra. Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted.
"""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)


@dataclass(frozen=True)
class Verb:
    """One verb: `module.main(config, overrides)` if it takes a config, else `module.main(argv)`."""

    summary: str
    module: str
    takes_config: bool = False


VERBS = {
    "run": Verb("run a job here or on the cluster in RAY_ADDRESS", "run", takes_config=True),
    "plan": Verb("check a job and say what it will do; starts nothing", "plan", takes_config=True),
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
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "`orchestrate --help` lists them"
        refuse(f"{name} is not a verb; {hint}")
    verb = VERBS[name]
    if verb.takes_config:
        sys.exit(run_with_config(verb, rest))
    try:
        sys.exit(_function(verb)(rest))
    except ValueError as error:
        refuse(str(error))


def usage() -> str:
    """What `orchestrate --help` prints."""
    lines = ["orchestrate VERB [overrides] [flags]", ""]
    lines += [f"  {name:10}{verb.summary}" for name, verb in VERBS.items()]
    lines += [
        "",
        "orchestrate run                              the quick start: train a small GPT here",
        "orchestrate run model=gpt_10m stage.steps=50 choose from a group, set one value",
        "orchestrate run --help                       groups, choices and every setting",
    ]
    return "\n".join(lines)


def refuse(message: str) -> None:
    """Say what is wrong with the request and exit with 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def run_with_config(verb: Verb, arguments: Sequence[str]) -> int:
    """Compose the config with Hydra and call the verb; under --multirun once for each job.

    Returns the exit code: the largest of all jobs.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException

    codes = [0]

    def task(composed: DictConfig) -> None:
        config = OmegaConf.to_object(composed)
        codes.append(_function(verb)(config, list(HydraConfig.get().overrides.task)))

    register()
    # Exceptions come out of hydra.main instead of being printed there, so that the message can
    # offer the nearest setting. A user who sets the variable gets the traceback.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *arguments]
    try:
        hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")(task)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if wants_traceback:
            raise
        refuse(explain(error))
    return max(codes)


def register() -> None:
    """Tell Hydra the schema of each group, and OmegaConf the resolver `auto`."""
    from hydra.core.config_store import ConfigStore

    from models import MODELS
    from orchestrator.config import SECTIONS, STAGE_CONFIGS, JobConfig
    from orchestrator.resources import automatic

    OmegaConf.register_new_resolver("auto", automatic, replace=True, use_cache=True)
    store = ConfigStore.instance()
    store.store(name="job", node=JobConfig)
    for group, node in SECTIONS.items():
        store.store(group=group, name=f"{group}_defaults", node=node)
    for name, stage in STAGE_CONFIGS.items():
        store.store(group="stage", name=f"{name}_defaults", node=stage)
    for family, model in MODELS.items():
        store.store(group="model", name=f"{family}_defaults", node=model)


def explain(error: Exception) -> str:
    """One message for whatever Hydra, OmegaConf or our own checks raised."""
    from hydra.errors import MissingConfigException

    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        near = difflib.get_close_matches(choice, error.options, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return (
            f"{group}={choice}: there is no such choice; {hint}choices: {', '.join(error.options)}"
        )
    unknown = re.match(r"Could not override '([^']*)'", str(error))
    if unknown and "is not in struct" in str(error) + str(cause):
        near = difflib.get_close_matches(unknown[1], setting_names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "`orchestrate run --cfg job` shows all"
        return f"{unknown[1]}: there is no such setting; {hint}"
    for layer in (error, cause):
        if isinstance(layer, MissingMandatoryValue):
            key = layer.full_key
            return f"{key} is not set, and this choice needs it; add {key}=VALUE"
        if isinstance(layer, InterpolationResolutionError) and layer.__cause__ is not None:
            return str(layer.__cause__)
        if isinstance(layer, OmegaConfBaseException) and layer.full_key:
            return f"{layer.full_key}: {str(layer.msg).splitlines()[0]}"
    return str(error)


def setting_names() -> list[str]:
    """Every setting and group that an override can name."""
    from models import MODELS
    from orchestrator.config import SECTIONS, STAGE_CONFIGS, JobConfig

    names = ["experiment", *(field.name for field in fields(JobConfig))]
    groups: list[tuple[str, type[Any]]] = [
        *SECTIONS.items(),
        *(("stage", stage) for stage in STAGE_CONFIGS.values()),
        *(("model", model) for model in MODELS.values()),
    ]
    for group, node in groups:
        assert is_dataclass(node)
        names += [f"{group}.{field.name}" for field in fields(node)]
    return names


BASH = """_orchestrate() {
  local reply
  reply=$(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" orchestrate -sc query=bash 2>/dev/null)
  COMPREPLY=($(compgen -o nospace -o default -W "$reply" -- "${COMP_WORDS[COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _orchestrate orchestrate"""
SHELLS = {
    "bash": BASH,
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{BASH}",
    "fish": "complete -c orchestrate -f -a "
    "'(COMP_LINE=(commandline -cp) orchestrate -sc query=bash 2>/dev/null | string split \" \")'",
}


def complete(arguments: Sequence[str]) -> int:
    """Shell completion that knows verbs: `-sc install=SHELL` prints what to eval, `query` answers.

    Hydra's completer takes every word for an override, so the verb is taken out of the line first.
    """
    request, _, shell = (arguments[0] if arguments else "").partition("=")
    if request == "install" and shell in SHELLS:
        print(SHELLS[shell])
        return 0
    if request != "query":
        refuse(f"-sc takes install=SHELL with a shell of {', '.join(SHELLS)}")
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) <= 2:
        typed = words[1] if len(words) == 2 else ""
        print(" ".join(name for name in VERBS if name.startswith(typed)))
        return 0
    verb = VERBS.get(words[1])
    if verb is None or not verb.takes_config:
        return 0
    os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    return run_with_config(verb, ["-sc", "query=bash"])


def _function(verb: Verb) -> Callable[..., int]:
    function: Callable[..., int] = importlib.import_module(f"orchestrator.verbs.{verb.module}").main
    return function
