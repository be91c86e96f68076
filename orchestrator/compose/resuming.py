"""`resume=RUN`: the job is that of RUN, under whatever else is typed.

The config of the run takes the place of the defaults of conf/config.yaml: each of its sections is
a choice of its group. A choice, an experiment or a setting that is typed then goes on top of it in
Hydra's own order, as it would on top of the defaults.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.messages import short
from orchestrator.compose.refusal import SCHEMA
from orchestrator.compose.schema import conf_folder
from orchestrator.plan.resume import AUTO, run_folder
from orchestrator.stages import saved

USUAL = "config"
CHOICE = "resumed" + SCHEMA  # not shown among the choices of a group


def primary_config(word: str, words: Sequence[str]) -> str:
    """The name of the primary config for a job with the word `resume=RUN`, which is stored.

    Raises:
        ValueError: it names several runs, or one whose config can't be read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(word)
    if override.is_sweep_override():
        raise ValueError(
            f"{word} names several runs, and a job goes on from one; start a job for each"
        )
    path = override.value()
    if path in (None, AUTO):
        return USUAL
    if any(other.startswith(("-cn", "--config-name")) for other in words):
        raise ValueError(
            f"{word} takes the config of that run; leave --config-name out, and type the settings "
            "that are to change"
        )
    _store(run_folder(str(path)))
    return CHOICE


def _store(folder: Path) -> None:
    """Tell Hydra the run's config: a primary config, and a choice for each of its sections."""
    import yaml
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    run, store = saved.read(folder / saved.CONFIG), ConfigStore.instance()
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
    primary["outputs"] = _outputs(str(run.outputs), folder)
    store.store(name=CHOICE, node=primary)


def _outputs(own: str, folder: Path) -> str:
    """The folder of run folders that holds the run, which may have moved; as the run called it."""
    holds = folder.parents[1]
    return own if Path(own).resolve() == holds else short(holds)
