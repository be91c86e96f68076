"""Shell completion: verbs, flags, run folders, groups with their choices, and settings."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

FOLDERS = ("resume", "checkpoint", "model.weights")  # settings whose value may be a run folder

BASH = """_orchestrate() {
  local reply
  reply=$(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" orchestrate -sc query 2>/dev/null)
  COMPREPLY=($(compgen -W "$reply" -- "${COMP_WORDS[COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _orchestrate orchestrate"""
FISH = """function __orchestrate
  set -l line (commandline -cp)
  COMP_LINE=$line orchestrate -sc query 2>/dev/null | string split " "
end
complete -c orchestrate -a "(__orchestrate)\""""
SHELLS = {
    "bash": BASH,
    "zsh": f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{BASH}",
    "fish": FISH,
}


def split(line: str, point: int | None) -> list[str]:
    """The words up to the cursor; the last is the one to complete, maybe empty."""
    before = line[:point]
    words = before.split()
    return words if words and not before[-1].isspace() else [*words, ""]


def matching(word: str, candidates: Iterable[str]) -> str:
    """The candidates that begin with the word, as a shell wants them: with spaces between."""
    return " ".join(candidate for candidate in candidates if candidate.startswith(word))


def of_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """What may follow `words` for a verb with arguments of its own; the last is half typed."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            names: Mapping[str, argparse.ArgumentParser] = action.choices
            if len(words) == 1:
                return [*names, *_flags(parser)]
            return of_arguments(names[words[0]], words[1:]) if words[0] in names else []
    if words[-1].startswith("-"):
        return _flags(parser)
    for action in parser._actions:
        named = len(words) > 1 and words[-2] in action.option_strings
        if action.choices and (named or not action.option_strings):
            return [str(choice) for choice in action.choices]
    return runs()


def runs(outputs: Path = Path("outputs")) -> list[str]:
    """Run folders under `outputs`, newest first, and the link to the newest."""
    folders = sorted(outputs.glob("*/*/config.yaml"), reverse=True)
    latest = [str(outputs / "latest")] if (outputs / "latest").exists() else []
    return latest + [str(config.parent) for config in folders]


def of_overrides(words: Sequence[str]) -> list[str]:
    """What may follow `words` for a verb that takes a config; the last is half typed.

    Flags, groups with their choices, and the settings of the job that the other words choose.
    """
    from orchestrator.compose import flags
    from orchestrator.compose.composer import Composer
    from orchestrator.compose.jobs import composed
    from orchestrator.compose.schema import GROUPS, SCHEMA

    if words[-1].startswith("-"):
        return _flags(flags.parser())
    asked = flags.parse(words[:-1])
    with Composer(asked.config_dir, asked.config_name) as composer:
        name, sign, _ = words[-1].lstrip("+").partition("=")
        if name in FOLDERS:
            return [f"{name}={folder}" for folder in runs()]
        choices = [c for c in composer.choices(name) if not c.endswith(SCHEMA)] if sign else []
        if choices:
            return [f"{name}={choice}" for choice in choices]
        known = dict(settings(composed(composer, asked.overrides)))
        if sign:
            return [f"{name}={value}" for value in ("true", "false") if known.get(name) is bool]
        return [f"{name}=" for name in (*GROUPS, *known)]


def of_sweep(words: Sequence[str]) -> list[str]:
    """What may follow `words` in a sweep: its own settings, too."""
    from orchestrator.verbs.sweep.settings import CHOICES, NAMES

    name, sign, _ = words[-1].partition("=")
    if sign and name in CHOICES:
        return [f"{name}={choice}" for choice in CHOICES[name]]
    of_job = [w for w in words[:-1] if "=" in w and w.partition("=")[0] not in NAMES]
    return [*(f"{own}=" for own in NAMES), *of_overrides([*of_job, words[-1]])]


def settings(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The name of every setting of a composed config, with its type."""
    from omegaconf import OmegaConf

    kind: Any = OmegaConf.get_type(node)
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(OmegaConf.get_type(node, field.name)):
            yield from settings(node[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hints[field.name]


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    spelled = (action.option_strings for action in parser._actions)
    return [option for options in spelled for option in options if option.startswith("--")]
