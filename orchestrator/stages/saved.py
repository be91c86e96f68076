"""The config of a run, read back from its folder."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from models import config_from_dict
from models.families import NOT_ARCHITECTURE
from orchestrator.config import SECTIONS, JobConfig, RoleSettings, check_choice
from orchestrator.record.reading import read_settings
from orchestrator.stages import STAGES


def load(path: Path) -> JobConfig:
    """The config of a run from its config.yaml; what the file lacks has its default.

    Its values are taken as they stand there: what looks like an interpolation is none.

    Raises:
        ValueError: a key is unknown, or the file is not one that a run has written.
    """
    from omegaconf.errors import OmegaConfBaseException

    plain = read_settings(path)
    known = {field.name for field in fields(JobConfig)}
    if "stage" not in plain:
        raise ValueError(f"{path} is not the config of a run: it has no stage")
    if unknown := plain.keys() - known:
        raise ValueError(f"{path}: unknown settings {', '.join(sorted(map(str, unknown)))}")
    try:
        return _config(plain)
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not the config of a run: a section is of another shape "
            f"({type(error).__name__}: {error})"
        ) from None


def _config(plain: dict[str, Any]) -> JobConfig:
    from omegaconf import OmegaConf

    check_choice("stage.name", plain["stage"]["name"], STAGES)
    nodes = {**SECTIONS, "stage": STAGES[plain["stage"]["name"]].section}
    for name, node in nodes.items():
        if name in plain:
            merged = OmegaConf.merge(OmegaConf.structured(node), _literal(plain[name]))
            plain[name] = OmegaConf.to_object(merged)
    if "model" in plain:
        architecture = dict(plain["model"])
        origin = {n: architecture.pop(n) for n in NOT_ARCHITECTURE if n in architecture}
        plain["model"] = replace(config_from_dict(architecture), **origin)
    roles = plain.get("roles", {}).items()
    plain["roles"] = {name: RoleSettings(**own) for name, own in roles}
    return JobConfig(**plain)


def _literal(value: Any) -> Any:
    """The value with its interpolations escaped, which could read this process's environment."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value
