"""`resume=RUN`: the job is that of RUN, under whatever else is typed.

The config of the run takes the place of the defaults of conf/config.yaml: each of its sections is
a choice of its group. A choice, an experiment or a setting that is typed then goes on top of it in
Hydra's own order, as it would on top of the defaults.
"""

import os
import re
from pathlib import Path
from typing import Any

from data.addresses import is_url
from data.messages import short
from orchestrator.compose.schema import SCHEMA, conf_folder
from orchestrator.plan.resume import AUTO, run_folder
from orchestrator.record.reading import CONFIG
from orchestrator.stages import saved

DATE = re.compile(r"\d{4}-\d\d-\d\d")
CHOICE = "resumed" + SCHEMA  # not shown among the choices of a group


def primary_config(resume: str) -> str | None:
    """The name of the primary config for a job with `resume=RUN`, which is stored; None: the usual.

    Raises:
        ValueError: there is no such run, or its config can't be read.
    """
    if resume == AUTO:
        return None
    _store(run_folder(resume), is_url(resume))
    return CHOICE


def _store(folder: Path, fetched: bool) -> None:
    """Tell Hydra the run's config: a primary config, and a choice for each of its sections.

    The outputs of a run that was fetched are not those that it was fetched to.
    """
    import yaml
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    run, store = saved.read(folder / CONFIG), ConfigStore.instance()
    if here := os.environ.get("RAY_ADDRESS"):
        run.resources.address = here
    primary: dict[str, Any] = yaml.safe_load((conf_folder() / "config.yaml").read_bytes())
    for choice in primary["defaults"]:
        for group in choice if isinstance(choice, dict) else ():
            if group in run:
                choice[group] = CHOICE
                store.store(group=group, name=CHOICE, node=run[group])
    primary["seed"] = run.seed
    primary["roles"] = OmegaConf.to_container(run.roles)
    # Else it was copied out of its outputs, alone.
    if DATE.fullmatch(folder.parent.name) and not fetched:
        primary["outputs"] = _outputs(str(run.outputs), folder)
    store.store(name=CHOICE, node=primary)


def _outputs(own: str, folder: Path) -> str:
    """The folder of run folders that holds the run, which may have moved; as the run called it."""
    holds = folder.parents[1]
    return own if Path(own).resolve() == holds else short(holds)
