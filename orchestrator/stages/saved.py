"""The config of a run, read back from its folder: data, whoever wrote it.

Nothing in it is resolved: `${oc.env:HOME}` is nine characters and a name, so a run folder from
somebody else learns nothing of this process.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from models import MODELS
from orchestrator.config import SECTIONS, JobConfig, check_choice
from orchestrator.record.reading import read_settings
from orchestrator.stages import STAGES

if TYPE_CHECKING:
    from omegaconf import DictConfig


def load(path: Path) -> JobConfig:
    """The config of a run from its config.yaml; what the file lacks has its default.

    Its values are taken as they stand there: what looks like an interpolation is none.

    Raises:
        ValueError: a setting is unknown or wrong, or the file is not one that a run has written.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    typed = read(path)
    try:
        return cast(JobConfig, OmegaConf.to_object(typed))
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None


def read(path: Path) -> "DictConfig":
    """The same as a config that others can be merged into; it holds values alone.

    Raises:
        ValueError: a setting is unknown or of a wrong type, or the file is none that a run wrote.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    plain = _plain(path)
    stage, model = (_name(plain, section, of) for section, of in (("stage", "name"), _FAMILY))
    if stage is None:
        raise ValueError(f"{path} is not the config of a run: it has no stage.name")
    check_choice("stage.name", stage, STAGES)
    try:
        typed = OmegaConf.structured(JobConfig)
        for name, node in {**SECTIONS, "stage": STAGES[stage].section}.items():
            typed[name] = OmegaConf.structured(node)
        if model is not None:
            check_choice("model.family", model, MODELS)
            typed.model = OmegaConf.structured(MODELS[model].config)
        merged = OmegaConf.merge(typed, plain)
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None
    return cast(DictConfig, merged)


_FAMILY = ("model", "family")


def _name(plain: dict[str, Any], section: str, setting: str) -> str | None:
    """The setting of a section that says which schema the section has."""
    own = plain.get(section)
    name = own.get(setting) if isinstance(own, dict) else None
    return None if name is None else str(name)


def _plain(path: Path) -> dict[str, Any]:
    """The file as plain values, each text spelled so that OmegaConf takes it for itself."""
    return {str(name): literal(value) for name, value in read_settings(path).items()}


def literal(value: Any) -> Any:
    """A value in which no text is an interpolation.

    Each run of backslashes before `${` is doubled and one more escapes the `${`.
    """
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    return value
