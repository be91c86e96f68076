"""`orchestrate run --help`: every setting with its type, value and meaning.

The manual is the code: what a setting means is the docstring under its field.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from models import MODELS
from orchestrator.compose import flags, schema
from orchestrator.compose.setting import not_none, values_of
from orchestrator.config import BY_STAGE, SECTIONS, JobConfig
from orchestrator.stages import STAGES

WIDTH = 79
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Any: "any value",
}
HEAD = """orchestrate run|plan [GROUP=CHOICE] [SETTING=VALUE] [flags]
"""
TAIL = """
How to:
  orchestrate run model=gpt_10m data.sequence_length=512     a choice and a value
  orchestrate run experiment=gpt2_124m_8gpu stage.steps=10   all of it but its steps
  orchestrate plan -m optim.learning_rate=1e-3,3e-3          a job for each value
  orchestrate plan resources=gpu8 gpu=H100 fit=true          on those, and the fastest way
  orchestrate run --detach                                   in the queue of `up`
  orchestrate run data=text data.path='corpus/*.txt'         your own text
  orchestrate run 'data.path="a, (b).txt"' data=text         quotes inside for such a name
  orchestrate run --cfg job --resolve                        the config; starts nothing
  orchestrate run -cd FOLDER model=mine                      FOLDER/model/mine.yaml
  orchestrate run stage=classify --help                      the settings of another stage
  orchestrate run resume=outputs/latest stage.steps=1200     go on from a checkpoint

Exit codes: 0 done, 1 the job failed, 2 the request was wrong and nothing was started,
3 interrupted before there was a checkpoint, 130 interrupted with one to go on from."""


def text(composed: DictConfig) -> str:
    """The whole help, with the values of a composed job."""
    lines = [HEAD, "Groups: a choice sets several settings at once.", schema.choices(), ""]
    lines += [flags.parser().format_help().partition(":\n")[2].replace("\n\n", "\n")]
    lines.insert(-1, "Flags:")
    lines += ["Settings: each with its value in this job, what it takes, and what it means.", ""]
    stage = STAGES[composed.stage.name].section
    sections = ("stage", "model", *SECTIONS)
    for name in sections:
        if name not in BY_STAGE or name in stage.reads:
            node = composed[name]
            kind: Any = OmegaConf.get_type(node)
            lines += [*_heading(f"{name}: ", kind), *_section(kind, f"{name}.", values_of(node))]
    alone = {f.name for f in fields(JobConfig)}.difference(sections)
    lines += ["the job as a whole", ""]
    lines += _section(JobConfig, "", OmegaConf.to_container(composed), only=alone)
    chosen = {OmegaConf.get_type(composed.stage), OmegaConf.get_type(composed.model)}
    others = [
        *(("stage", name, own.section) for name, own in STAGES.items()),
        *(("model", name, own.config) for name, own in MODELS.items()),
    ]
    for group, name, kind in others:
        if kind not in chosen:
            lines += [*_heading(f"{group} of the kind {name}: ", kind)]
            lines += _section(kind, f"{group}.", {})
    return "\n".join([*lines, TAIL.strip("\n")])


def meanings(kind: Any) -> Mapping[str, str]:
    """What each field of a dataclass means: the string under it, in the class or in a base."""
    found: dict[str, str] = {}
    for own in reversed(kind.__mro__):
        if not is_dataclass(own):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(cast(type[Any], own)))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for line, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                said = after.value if isinstance(after, ast.Expr) else None
                if isinstance(said, ast.Constant) and isinstance(said.value, str):
                    found[line.target.id] = " ".join(said.value.split())
    return found


def kind_in_words(kind: Any) -> str:
    """What values of a type are, for a reader."""
    if kind in WORDS:
        return WORDS[kind]
    if (plain := not_none(kind)) is not kind:
        return f"{kind_in_words(plain)}, or null"
    if get_origin(kind) is list:
        return f"[{_each(get_args(kind)[0])}, ...]"
    if get_origin(kind) is dict:
        return f"{{NAME: {_each(get_args(kind)[1])}, ...}}"
    return _each(kind)


def _each(kind: Any) -> str:
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        return "{" + ", ".join(names if len(names) < 4 else [*names[:2], "..."]) + "}"
    return kind_in_words(kind)


def _heading(name: str, kind: type[Any]) -> list[str]:
    said = inspect.getdoc(kind) or ""
    return [*textwrap.wrap(name + " ".join(said.partition("\n\n")[0].split()), WIDTH), ""]


def _section(
    kind: type[Any], prefix: str, values: Any, only: set[str] | None = None
) -> Iterator[str]:
    """The lines of a section: setting and value, what it takes, what it means."""
    hints, said = get_type_hints(kind), meanings(kind)
    for field in fields(kind):
        if only is not None and field.name not in only:
            continue
        name, hint = f"{prefix}{field.name}", hints[field.name]
        value = values.get(field.name, _default(field))
        if is_dataclass(hint):
            yield from _section(hint, f"{name}.", value)  # type: ignore[arg-type]
            continue
        left = f"  {name}={_shown(value)}"
        takes, meaning = kind_in_words(hint), said.get(field.name, "")
        if len(left) + len(takes) < WIDTH:
            left = f"{left:41} {takes}"
        else:
            meaning = f"Takes {takes}. {meaning}"
        yield left
        readers = [n for n, stage in STAGES.items() if name in stage.section.reads]
        if name in BY_STAGE and len(readers) < len(STAGES):
            meaning += f" Read by stage={', '.join(readers)}."
        for python, typed in (("None", "null"), ("True", "true"), ("False", "false")):
            meaning = re.sub(rf"\b{python}\b", typed, meaning)
        yield from textwrap.wrap(meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    yield ""


def _default(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    made = field.default_factory() if field.default_factory is not MISSING else "???"
    return asdict(made) if is_dataclass(made) and not isinstance(made, type) else made


def _shown(value: Any) -> str:
    """A value as it may be typed; `auto` for what is worked out on the machine."""
    if isinstance(value, str):
        return "auto" if value.startswith("${") else "VALUE" if value == "???" else value
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
