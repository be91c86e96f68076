"""One message for whatever was wrong with a request: setting, value, what would do.

Hydra and OmegaConf say what they could not do in their own terms; here it is said in the user's.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from data.messages import listed, nearest, override
from models import MODELS
from orchestrator.compose.schema import SCHEMA
from orchestrator.compose.word import Word
from orchestrator.config import BY_STAGE, SECTIONS, JobConfig, StageConfig
from orchestrator.stages import STAGES
from orchestrator.verbs.sweep.settings import NAMES as OF_SWEEPS

KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
EXAMPLES = {"Integer": 100, "Float": 0.1, "bool": "true"}
WRONG_TYPE = r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)"
WRONG_SHAPE = re.compile(r"^Cannot (merge|assign)|^Invalid (type|value) assigned")
SHAPES = {
    "data.filters": "'data.filters=[{name: length, min: 20}]'",
    "data.phases": "'data.phases=[{start: 4096, weights: {NAME: 1}}]'",
    "data.datasets": "'data.datasets={NAME: {source: text, path: FOLDER}}'",
    "stage.tasks": "'stage.tasks={NAME: {data: FILE, weight: 1}}'",
}
OF_HYDRA = {
    "hydra.run.dir": "outputs=FOLDER is where the run folders go",
    "hydra.sweep.dir": "outputs=FOLDER is where the run folders go",
    "hydra.mode": "--multirun starts a job for each value",
    "hydra.searchpath": "--config-dir FOLDER adds choices of your own",
}


def reworded(error: Exception) -> str:
    """What to tell the user about an error of Hydra, of OmegaConf or of our own checks."""
    if missing := getattr(error, "missing_cfg_file", None):
        return _unknown_choice(str(missing), list(getattr(error, "options", None) or []))
    if in_file := re.match(r"In '([^']*)': \w+ raised while composing config:\n(.*)", str(error)):
        return _in_file(in_file[1], in_file[2])
    for layer in (error, error.__cause__):
        if isinstance(layer, OmegaConfBaseException):
            return _of_a_setting(layer)
    return str(error).splitlines()[0] if _is_hydras(error) else str(error)


def unknown_setting(name: str, section_type: object = None) -> str:
    """Say that there is no such setting, and which one may be meant.

    Args:
        name: of the setting.
        section_type: of what would have it, where that is known.
    """
    known, (section, _, leaf) = list(settings()), name.rpartition(".")
    if name in known:
        return (
            f"{name} is of another {section} than this job has; choose that with {section}=, or "
            "leave it out"
        )
    if "." in section and is_dataclass(section_type):  # of one dataset, one task, and the like
        names = [field.name for field in fields(section_type)]
        near = nearest(leaf, names)
        hint = f"did you mean {section}.{near}?" if near else f"{section} has {listed(names)}"
        return f"{name}: there is no such setting; {hint}"
    same = [other for other in known if other.endswith(f".{leaf}")]
    in_section = [other for other in known if section and other.startswith(f"{section}.")]
    near = nearest(name, in_section or known, least=0.7)
    meant = same[:3] or ([near] if near else [])
    hint = f"did you mean {' or '.join(meant)}?" if meant else "`orchestrate run --help` lists them"
    return f"{name}: there is no such setting; {hint}"


def settings() -> dict[str, Any]:
    """Every setting and group that an override can name, with its default."""
    found: dict[str, Any] = {"experiment": None}
    for field in fields(JobConfig):
        found[field.name] = None if field.default is MISSING else field.default
    groups: list[tuple[str, type[Any]]] = [
        *SECTIONS.items(),
        *(("stage", stage.section) for stage in STAGES.values()),
        *(("model", family.config) for family in MODELS.values()),
    ]
    for group, node in groups:
        for field in fields(node):
            default = None if field.default is MISSING else field.default
            found.setdefault(f"{group}.{field.name}", default)  # that of the first in the table
    return found


def check_read(stage: StageConfig, names: Iterable[str]) -> None:
    """Raise ValueError for a setting or group that was typed and that the stage does not read."""
    for name in names:
        part = name.lstrip("+~").split(".")[0].split("@")[0]
        if part in BY_STAGE and part not in stage.reads:
            raise ValueError(
                f"{name}: stage={stage.name} does not read it, only {', '.join(stage.reads)}; "
                "leave it out"
            )


def check_effect(job: JobConfig, typed: Iterable[tuple[str, object]]) -> None:
    """Raise ValueError for a setting that was typed and changes nothing in this job."""
    unread = job.unread()
    for name, value in _leaves(typed):
        for setting, why in unread.items():
            if name == setting or name.startswith(f"{setting}."):
                raise ValueError(f"{name}={value} has no effect: {why}; leave it out")


def _leaves(typed: Iterable[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """Names and values of overrides, those inside of a value too: a={b: 1} is a.b=1."""
    for name, value in typed:
        if isinstance(value, Mapping):
            yield from _leaves((f"{name}.{key}", own) for key, own in value.items())
        else:
            yield name, value


def check_mixture(composed: DictConfig, chosen: Mapping[str, object]) -> None:
    """Raise ValueError for data=mixture without a dataset, which would be the default data."""
    if chosen.get("data") == "mixture" and not composed.data.datasets:
        raise ValueError(f"data=mixture needs datasets; try {SHAPES['data.datasets']}")


def check_no_sweep(words: Iterable[str]) -> None:
    """Raise ValueError for a setting of a sweep, which no job has."""
    for word in words:
        if word.partition("=")[0] in OF_SWEEPS:
            raise ValueError(f"{word} is of a sweep, not of a job; try orchestrate sweep {word}")


def check_word(word: Word) -> None:
    """Raise ValueError for what is said to Hydra itself, and for a removal: neither has a use."""
    if re.match(r"hydra\b", word.name):
        near = OF_HYDRA.get(word.name.partition("/")[0], "leave it out")
        raise ValueError(f"{word.name} is of Hydra itself and has no effect here; {near}")
    if word.sign == "~":
        name = word.name
        what = "settings and groups can't be removed; give it another value"
        raise ValueError(f"~{name}: {what}: {name}=VALUE, or leave it out for its default")


def unreadable(word: str, said: str = "") -> str:
    """Say what is wrong with a word that can't be read as an override."""
    if "=" in word:
        name, _, text = word.partition("=")
        if evaluated := re.match(r"\w+ while evaluating '[^']*': (.*)", said, re.DOTALL):
            return f"{word}: {evaluated[1].splitlines()[0]}"
        return (
            f"{word}: this value can't be read; close its brackets and quotes, or if it is a text, "
            f"quote it for the shell and inside: {override(name, text)}"
        )
    known = settings()
    if word in known:
        example = known[word] if known[word] is not None else "VALUE"
        return f"{word} has no value; try {word}={example}"
    return f"{word} is no override; try SETTING=VALUE, for example stage.steps=100"


def _unknown_choice(missing: str, options: list[str]) -> str:
    group, slash, choice = missing.partition("/")
    if not slash:
        return f"config {missing}: there is no such file among the configs"
    choices = [option for option in options if not option.endswith(SCHEMA)]
    near = nearest(choice, choices)
    hint = f"did you mean {near}? " if near else ""
    return f"{group}={choice}: there is no such choice; {hint}choices: {', '.join(choices)}"


def _in_file(name: str, said: str) -> str:
    """A YAML file of the user's own that does not fit the schema."""
    unknown = re.match(r"Key '([^']*)' not in '\w+'", said)
    group, slash, _ = name.rpartition("/")
    prefix = f"{group}." if slash and group != "experiment" else ""
    return f"{name}.yaml: {unknown_setting(prefix + unknown[1]) if unknown else said}"


def _of_a_setting(layer: OmegaConfBaseException) -> str:
    said, key = str(layer.msg or layer).splitlines()[0], layer.full_key
    if isinstance(layer, MissingMandatoryValue):
        return f"{key} is not set, and this choice needs it; add {key}=VALUE"
    if isinstance(layer, InterpolationResolutionError):
        return _not_filled_in(key, said, layer.__cause__)
    if isinstance(layer, ConfigKeyError | ConfigAttributeError) and key:
        return unknown_setting(key)
    if not key and "Dict[str, Any]" in said:
        key = "data.filters"  # the only such setting; OmegaConf names none for an entry of a list
    for name, example in SHAPES.items():
        if key and key.startswith(name) and WRONG_SHAPE.search(said):
            return f"{key} has another shape; write {example}"
    if isinstance(layer, ValidationError) and key:
        return _wrong_type(key, said)
    return f"{key}: {said}" if key else said


def _not_filled_in(key: str | None, said: str, cause: BaseException | None) -> str:
    """A ${...} in a value that stands for nothing."""
    if unset := re.search(r"Environment variable '([^']*)' not found", said):
        return (
            f"{key}=${{oc.env:{unset[1]}}}: the variable {unset[1]} is not set; export "
            f"{unset[1]}=VALUE, or type {key}=VALUE"
        )
    if unknown := re.search(r"Interpolation key '([^']*)' not found", said):
        return (
            f"{key}: ${{{unknown[1]}}} is no setting; a variable of the environment is "
            f"${{oc.env:{unknown[1]}}}"
        )
    return str(cause) if isinstance(cause, ValueError) else f"{key}: {said}"


def _wrong_type(key: str, said: str) -> str:
    default = settings().get(key)
    wrong = re.match(WRONG_TYPE, said)
    if wrong and wrong[2] in KINDS:
        example = EXAMPLES[wrong[2]] if default is None else default
        example = str(example).lower() if isinstance(example, bool) else example
        return f"{key}={wrong[1]} must be {KINDS[wrong[2]]}; try {key}={example}"
    if "is not Optional" in said or "'None'" in said:
        return f"{key}=null can't be: it needs a value; try {key}={default or 'VALUE'}"
    return f"{key}: {said}"


def _is_hydras(error: Exception) -> bool:
    return type(error).__module__.startswith("hydra.")
