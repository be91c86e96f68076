"""YAML files of chosen groups -> one config: what Hydra does here, and all that it may do.

Hydra's own app imports plugins, calls callbacks, launchers and loggers that a config names, and
opens packages on a search path. None of it is of use here, so none of it is reachable: only
composition is called, no plugin is looked for, and whatever a config says to Hydra itself is
refused.
"""

import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import TracebackType

from omegaconf import DictConfig, OmegaConf, open_dict

from orchestrator.compose.schema import register

# Before anything of Hydra is made: importing this name fails now, and Hydra takes that for "no
# plugin is installed". It would import each module it finds there, on PYTHONPATH or in this folder.
sys.modules["hydra_plugins"] = None  # type: ignore[assignment]

import hydra  # noqa: E402
from hydra.core.config_loader import ConfigLoader  # noqa: E402
from hydra.core.global_hydra import GlobalHydra  # noqa: E402

PRIMARY = "config"
NO_SEARCH = "hydra.searchpath=[]"  # it could name packages, which would be imported
HERE = ("runtime", "overrides", "job")  # parts of Hydra's own config that depend on the command

Composed = tuple[DictConfig, dict[str, object]]
_OURS: dict[tuple[str, ...], Composed] = {}  # of choices among our own files, which do not change


class Composer:
    """Hydra's composition for one command; a context."""

    def __init__(self, own: str | None = None, primary: str = PRIMARY) -> None:
        """`own` is a folder of the user's with more choices, `primary` the YAML that is read first.

        Raises:
            ValueError: the folder is not there, or the primary config speaks to Hydra.
        """
        self._primary = primary.removesuffix(".yaml")
        self._choices: dict[str, list[str]] = {}
        self._own = None if own is None else Path(own).expanduser().absolute()
        self._composed: dict[tuple[str, ...], Composed] = _OURS if own is None else {}
        if self._own is None:
            return
        if not self._own.is_dir():
            raise ValueError(f"--config-dir={own}: there is no such folder")
        file = self._own / f"{self._primary}.yaml"
        if file.is_file() and "hydra" in (OmegaConf.load(file) or ()):
            raise ValueError(_to_hydra(str(file)))

    def __enter__(self) -> "Composer":
        """Make Hydra ready."""
        register()
        self._hydra = hydra.initialize_config_module("conf", "orchestrate", version_base="1.3")
        if self._own is not None:
            places = self.loader.get_search_path()
            schemas = places.get_path().pop()  # stay last
            places.append("command-line", f"file://{self._own}")
            places.append(schemas.provider, schemas.path)
            self.loader.repository.initialize_sources(places)  # type: ignore[attr-defined]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Leave Hydra as it was."""
        self._hydra.__exit__(kind, error, where)

    @property
    def loader(self) -> ConfigLoader:
        """What knows the groups."""
        return GlobalHydra.instance().config_loader()

    def choices(self, group: str) -> list[str]:
        """Those of a group, the schemas among them; none if there is no such group."""
        if "." in group:  # a setting; to ask Hydra takes 15 ms
            return []
        if group not in self._choices:
            try:
                # Of the repository, as the loader would: but it copies all schemas for each answer.
                repository = self.loader.repository  # type: ignore[attr-defined]
                self._choices[group] = sorted(repository.get_group_options(group))
            except OSError:  # no file has such a name
                self._choices[group] = []
        return self._choices[group]

    def composed(
        self, groups: Sequence[str], resumed: str | None = None, *, lasting: bool = True
    ) -> Composed:
        """The config of these choices, and the choice of every group.

        `resumed` is the primary config of a run that goes on (resuming.py), in place of the usual;
        it, and choices that are not `lasting`, may be others the next time.

        Raises:
            ValueError: a file of the user's own says something to Hydra.
            HydraException: a choice is not there, or its file does not fit.
        """
        key = (self._primary, *groups)
        lasting = lasting and resumed is None
        if lasting and (known := self._composed.get(key)) is not None:
            return deepcopy(known)
        if resumed is not None and self._primary != PRIMARY:
            raise ValueError(
                f"--config-name={self._primary}: a job that is resumed has the config of its run; "
                "leave it out, and type the settings that are to change"
            )
        config = self._compose(resumed or self._primary, groups)
        if self._own and _hydras(config) != _hydras(self._compose(PRIMARY, [])):
            raise ValueError(_to_hydra("a file of --config-dir"))
        chosen = dict(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
        if lasting:  # the jobs of a sweep make few choices, and composing takes 0.1 s
            self._composed[key] = deepcopy((config, chosen))
        return config, chosen

    def show_info(self, info: str, groups: Sequence[str]) -> None:
        """Print which files the config is made of."""
        app = GlobalHydra.instance().hydra
        assert app is not None
        app.show_info(info, self._primary, [NO_SEARCH, *groups])

    def _compose(self, name: str, groups: Sequence[str]) -> DictConfig:
        return hydra.compose(name, [NO_SEARCH, *groups], return_hydra_config=True)


def _hydras(config: DictConfig) -> dict[str, object]:
    """Hydra's own config, as it is without a file of the user's."""
    return {
        str(key): OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for key, value in config.hydra.items_ex(resolve=False)
        if key not in HERE
    }


def _to_hydra(where: str) -> str:
    return (
        f"{where} has settings of Hydra itself (hydra:, or hydra/... among its defaults), which "
        "have no effect here: a config starts no launcher, callback or logger; leave them out"
    )
