"""Arguments -> jobs, by Hydra: composed, checked, one or many."""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from orchestrator.compose.schema import register
from orchestrator.config import JobConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

OPEN = (r"data\.datasets", r"data\.contract\.columns", "roles")


def compose(arguments: Sequence[str]) -> list[tuple[JobConfig, list[str]]]:
    """The jobs that the arguments ask for, each with its overrides; none for --cfg and --info.

    Raises:
        ValueError: with one message for whatever Hydra, OmegaConf or a check of ours has said.
        SystemExit: after --help.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from orchestrator.compose import refusal

    jobs: list[tuple[JobConfig, list[str]]] = []
    refused: list[str] = []

    def collect(composed: "DictConfig") -> None:
        overrides = list(HydraConfig.get().overrides.task)
        parsed = OverridesParser.create().parse_overrides(overrides)
        try:
            refusal.check_known(composed)
            refusal.check_mixture(composed, HydraConfig.get().runtime.choices)
            refusal.check_switches(composed, ((o.key_or_group, o.value()) for o in parsed))
            job = cast(JobConfig, OmegaConf.to_object(composed))
            refusal.check_read(job.stage, (own.key_or_group for own in parsed))
            refusal.check_effect(job, ((own.key_or_group, own.value()) for own in parsed))
            jobs.append((job, overrides))
        except (OmegaConfBaseException, ValueError) as error:
            many = HydraConfig.get().mode is RunMode.MULTIRUN
            where = f"in the job {' '.join(overrides)}: " if many else ""
            refused.append(where + refusal.reworded(error))

    register()
    # Overrides first, so that flags may stand between them. The experiment is in the defaults
    # list, where Hydra wants no +, but every tutorial of Hydra types it.
    words = [re.sub(r"^\+experiment=", "experiment=", word) for word in arguments]
    # Names of datasets and columns are the user's own, which Hydra takes only after ++.
    words = [re.sub(rf"^\+*(?=({'|'.join(OPEN)})[.=])", "++", _whole(word)) for word in words]
    refusal.check_words(words)
    ordered = sorted(words, key=lambda word: word.startswith("-") or "=" not in word)
    app = hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")(collect)
    try:
        with _hydra_in_a_box([sys.argv[0], *ordered]):
            app()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(refusal.reworded(error)) from error
    if refused:
        raise ValueError(refused[0])
    return jobs


def compose_one(overrides: Sequence[str]) -> JobConfig:
    """The one job of these overrides. Raises ValueError if they are several."""
    jobs = compose(overrides)
    if len(jobs) != 1:
        raise ValueError(f"{' '.join(overrides)}: give one job; --multirun is for run and plan")
    return jobs[0][0]


def _whole(word: str) -> str:
    """A setting of one dataset of a mixture, or of one role, as one of all of them.

    data.datasets.a.weight=2 becomes data.datasets={a: {weight: 2}}, since the name is new to
    Hydra, which merges the whole with what there is. Several values, for a sweep, stay several.
    """
    found = re.match(r"^\+*(data\.datasets|roles)\.([\w.]+)=([^(]*)$", word)
    if found is None:
        return word
    one = found[3].startswith(("{", "[", '"', "'"))
    values = [found[3]] if one else found[3].split(",")
    for part in reversed(found[2].split(".")):
        values = [f"{{{part}: {value}}}" for value in values]
    return f"{found[1]}={','.join(values)}"


@contextlib.contextmanager
def _hydra_in_a_box(argv: list[str]) -> Iterator[None]:
    """Let Hydra see these arguments, raise its errors, say nothing, and leave no file behind."""
    from omegaconf import OmegaConf

    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    said = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
        # The sweeper writes multirun.yaml there (conf/config.yaml).
        OmegaConf.register_new_resolver("temporary", lambda: folder, replace=True)
        sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
        try:
            with contextlib.redirect_stderr(said):
                yield
        except SystemExit as stopped:
            if stopped.code == 2:  # argparse, which has printed all flags before what was wrong
                wrong = said.getvalue().strip().rpartition("error: ")[2]
                raise ValueError(f"{wrong}; `orchestrate run --hydra-help` lists flags") from None
            raise
        finally:
            sys.argv = before
            os.environ.pop("HYDRA_FULL_ERROR")
            if full_error is not None:
                os.environ["HYDRA_FULL_ERROR"] = full_error
    sys.stderr.write(said.getvalue())
