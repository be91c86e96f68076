"""Settings by their types: what a value is for each, and how it comes into a composed config."""

import types
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from orchestrator.compose.refusal import unknown_setting
from orchestrator.compose.word import Spelled, Word
from orchestrator.config import JobConfig, RoleSettings


def put(composed: DictConfig, word: Word) -> None:
    """Give a setting its value.

    Raises:
        ValueError: there is no such setting, or a number was given to a switch.
        OmegaConfBaseException: the value is of another type.
    """
    parts = word.name.split(".")
    kinds = [JobConfig, *_kinds(composed, word.name)]
    kind = kinds[-1]
    # What lies behind a name of the user's own is merged as a whole.
    own = (number for number, each in enumerate(kinds[:-1]) if get_origin(each) is dict)
    whole = next(own, len(parts))
    value = _as(kind, word.value, composed, word.name)
    for part in reversed(parts[whole:]):
        value = {part: value}
    OmegaConf.update(composed, ".".join(parts[:whole]), value, merge=True, force_add=True)


def values_of(section: DictConfig) -> dict[str, Any]:
    """The values of a section as its checks leave them, if nothing of it is still open."""
    plain: Any = OmegaConf.to_container(section)
    if "${" in str(plain) or "???" in str(plain):
        return cast(dict[str, Any], plain)
    checked: Any = OmegaConf.to_object(section)
    return asdict(checked)


def kind_of(composed: DictConfig, name: str) -> Any:
    """The type of a setting. Raises ValueError: there is no such setting."""
    return _kinds(composed, name)[-1]


def _kinds(composed: DictConfig, name: str) -> list[Any]:
    """The type of each part of a name."""
    found: list[Any] = []
    for part in name.split("."):
        found.append(_inside(found[-1] if found else JobConfig, part, composed, name))
    return found


def _inside(kind: Any, part: str, composed: DictConfig, name: str) -> Any:
    """The type of `part` in something of type `kind`; Any where the user's own words begin."""
    if is_dataclass(kind):
        if part not in (field.name for field in fields(kind)):
            raise ValueError(unknown_setting(name, kind))
        if kind in (JobConfig, RoleSettings):  # stage and model are what was chosen
            chosen = OmegaConf.get_type(composed, part)
            if is_dataclass(chosen):
                return chosen
        return not_none(get_type_hints(kind)[part])
    if get_origin(kind) in (dict, list):
        return not_none(get_args(kind)[-1])
    if kind is Any:
        return Any
    raise ValueError(unknown_setting(name))


def _as(kind: Any, value: Any, composed: DictConfig, name: str) -> Any:
    """The value as a setting of this type takes it: a text keeps its spelling."""
    if isinstance(value, Spelled):
        if kind is bool and type(value.value) is int and value.value not in (0, 1):
            raise ValueError(f"{name}={value} must be true or false; try {name}=true")
        return str(value) if kind is str else value.value
    if isinstance(value, dict):
        return {
            key: _as(_inside(kind, key, composed, f"{name}.{key}"), item, composed, f"{name}.{key}")
            for key, item in value.items()
        }
    if isinstance(value, list):
        each = not_none(get_args(kind)[0]) if get_origin(kind) is list else Any
        return [_as(each, item, composed, f"{name}[{i}]") for i, item in enumerate(value)]
    return value


def not_none(kind: Any) -> Any:
    """A type without its None: int for int | None; Any for a union of several."""
    if get_origin(kind) in (Union, types.UnionType):
        others = [one for one in get_args(kind) if one is not type(None)]
        return others[0] if len(others) == 1 else Any
    return kind
