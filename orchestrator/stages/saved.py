"""The config of a run, read back from its folder."""

from dataclasses import fields, replace
from pathlib import Path

from models import config_from_dict
from models.families import NOT_ARCHITECTURE
from orchestrator.config import SECTIONS, JobConfig, RoleSettings, check_choice
from orchestrator.stages import STAGES


def load(path: Path) -> JobConfig:
    """The config of a run from its config.yaml; what the file lacks has its default.

    Raises:
        ValueError: a key is unknown, or the file is not one that a run has written.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {field.name for field in fields(JobConfig)}
    if not isinstance(plain, dict) or "stage" not in plain:
        raise ValueError(f"{path} is not the config of a run: it has no stage")
    if unknown := plain.keys() - known:
        raise ValueError(f"{path}: unknown settings {', '.join(sorted(unknown))}")
    check_choice("stage.name", plain["stage"]["name"], STAGES)
    nodes = {**SECTIONS, "stage": STAGES[plain["stage"]["name"]].section}
    try:
        for name, node in nodes.items():
            if name in plain:
                merged = OmegaConf.merge(OmegaConf.structured(node), plain[name])
                plain[name] = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None
    if "model" in plain:
        architecture = dict(plain["model"])
        origin = {n: architecture.pop(n) for n in NOT_ARCHITECTURE if n in architecture}
        plain["model"] = replace(config_from_dict(architecture), **origin)
    roles = plain.get("roles", {}).items()
    plain["roles"] = {name: RoleSettings(**own) for name, own in roles}
    return JobConfig(**plain)
