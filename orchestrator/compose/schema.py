"""What Hydra knows of this project: the schema of each group and the resolvers of conf/."""

import os
import textwrap
from functools import cache
from pathlib import Path

from orchestrator.config import SECTIONS

GROUPS = ("stage", "model", *SECTIONS, "experiment")
"""Those that every job has a choice of."""
PRESETS = "sweep"
"""The folder of sweeps: lists of overrides, and no group of Hydra's; see presets.py."""
SCHEMA = "_defaults"  # end of the names of the dataclasses among the choices of a group


@cache
def register() -> None:
    """Tell Hydra the schema of each group, and OmegaConf the resolvers of conf/.

    Once in a process, for it takes 0.1 s.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from models import MODELS
    from orchestrator.compose.automatic import automatic
    from orchestrator.config import JobConfig
    from orchestrator.scaling.dial import dial
    from orchestrator.stages import STAGES

    OmegaConf.register_new_resolver(
        "ray_address", lambda: os.environ.get("RAY_ADDRESS") or None, replace=True
    )
    OmegaConf.register_new_resolver("auto", automatic, replace=True)
    OmegaConf.register_new_resolver("dial", dial, replace=True)
    store = ConfigStore.instance()
    store.store(name="job", node=JobConfig)
    for group, node in SECTIONS.items():
        store.store(group=group, name=group + SCHEMA, node=node)
    for name, stage in STAGES.items():
        store.store(group="stage", name=name + SCHEMA, node=stage.section)
    for name, family in MODELS.items():
        store.store(group="model", name=name + SCHEMA, node=family.config)


@cache
def choices() -> str:
    """Each group with its choices and the first comment of their files, for --help."""
    lines = []
    for folder in sorted(
        path for path in conf_folder().iterdir() if path.name in (*GROUPS, PRESETS)
    ):
        for file in sorted(folder.glob("*.yaml")):
            first = file.read_text(encoding="utf-8").splitlines()
            comment = next((line for line in first if line[:2] == "# " and line[2] != "@"), "# ")
            name = f"  {f'{folder.name}={file.stem}':30} "
            lines += textwrap.wrap(name + comment[2:], 79, subsequent_indent=" " * 33)
    return "\n".join(lines)


def conf_folder() -> Path:
    """Where the YAML files of the choices are."""
    import conf

    return Path(conf.__path__[0])
