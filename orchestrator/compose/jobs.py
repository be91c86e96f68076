"""Arguments -> jobs: the one place where what was typed becomes a config."""

import itertools
import math
import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from data.files import expand_home
from data.messages import override
from orchestrator.compose.schema import GROUPS
from orchestrator.compose.word import Spelled, Word
from orchestrator.config import SECTIONS, JobConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.compose.composer import Composer


def compose(arguments: Sequence[str]) -> list[tuple[JobConfig, list[str]]]:
    """The jobs that the arguments ask for, each with its overrides; none for --help, --cfg, --info.

    Raises:
        ValueError: with one message for whatever Hydra, OmegaConf or a check of ours has said.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from orchestrator.compose import flags, presets, refusal
    from orchestrator.compose.composer import Composer

    asked = flags.parse(arguments)
    of_sweep = presets.expanded(asked.overrides, asked.config_dir)
    asked.multirun |= of_sweep is not None
    jobs: list[tuple[JobConfig, list[str]]] = []
    try:
        with Composer(asked.config_dir, asked.config_name) as composer:
            for words in _each(of_sweep or [asked.overrides], asked.multirun, composer):
                typed = [word.typed for word in words]
                try:
                    if asked.help or asked.cfg or asked.info:
                        _show(asked, composer, words)
                    else:
                        jobs.append((_job(composer, words), typed))
                except (HydraException, OmegaConfBaseException, ValueError) as error:
                    where = f"in the job {shlex.join(typed)}: " if asked.multirun else ""
                    raise ValueError(where + refusal.reworded(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(refusal.reworded(error)) from error
    return jobs


def one_job(composer: "Composer", overrides: Sequence[str]) -> JobConfig:
    """The job of overrides of one value each, checked.

    Raises:
        ValueError, HydraException, OmegaConfBaseException: it can't work.
    """
    from orchestrator.compose import grammar, refusal

    words = [grammar.read(word, composer.loader)[0] for word in overrides]
    for word in words:
        refusal.check_word(word)
    return _job(composer, words)


def compose_one(overrides: Sequence[str]) -> JobConfig:
    """The one job of these overrides. Raises ValueError if they are several."""
    jobs = compose(overrides)
    if len(jobs) != 1:
        raise ValueError(f"{shlex.join(overrides)}: give one job; --multirun is for run and plan")
    return jobs[0][0]


def _each(
    lists: Sequence[Sequence[str]], multirun: bool, composer: "Composer"
) -> Iterator[list[Word]]:
    """The overrides of each job: of each list, the product of all values that were given."""
    for overrides in lists:
        yield from _product(overrides, multirun, composer)


def _product(
    overrides: Sequence[str], multirun: bool, composer: "Composer"
) -> Iterator[list[Word]]:
    from orchestrator.compose import grammar, refusal

    refusal.check_no_sweep(overrides)
    read = [grammar.read(word, composer.loader) for word in overrides]
    count = math.prod(map(len, read))
    if count > grammar.MOST:
        raise ValueError(
            f"{' '.join(w for w, v in zip(overrides, read, strict=True) if len(v) > 1)} are "
            f"{count:,} jobs, and {grammar.MOST:,} are the most; list fewer values, or have some "
            "of them tried by `orchestrate sweep`"
        )
    for word, values in zip(overrides, read, strict=True):
        refusal.check_word(values[0])
        if len(values) > 1 and not multirun:
            name, _, text = word.partition("=")
            raise ValueError(
                f"{word} is several values; try --multirun for a job each, {name}=[{text}] for a "
                f"list, or {override(name, text)} for a text"
            )
    for words in itertools.product(*read):
        yield list(words)


def defaults(stage: str) -> dict[str, Any]:
    """The config of a job that says no more than its stage; `${...}` where a machine decides."""
    from omegaconf import OmegaConf

    from orchestrator.compose.composer import Composer
    from orchestrator.compose.setting import values_of

    with Composer() as composer:
        config = composed(composer, [f"stage={stage}"])
        sections = ("stage", "model", *SECTIONS)
        plain = cast(dict[str, Any], OmegaConf.to_container(config))
        return {**plain, **{name: values_of(config[name]) for name in sections}}


def composed(composer: "Composer", overrides: Sequence[str]) -> "DictConfig":
    """The config of overrides of one job, unchecked.

    Raises:
        ValueError, HydraException, OmegaConfBaseException: it can't be composed.
    """
    from orchestrator.compose import grammar

    return _composed(composer, [grammar.read(word, composer.loader)[0] for word in overrides])[0]


def _composed(
    composer: "Composer", words: Sequence[Word]
) -> tuple["DictConfig", dict[str, object]]:
    from orchestrator.compose import setting, weights

    resumed = None
    for word in words:
        if word.name == "resume":
            resumed = _primary_of(word)
    chosen = [word for word in words if _chooses(composer, word)]
    own = weights.choices(words) if resumed is None else weights.Choices()
    groups = [*own.groups, *map(_choice, chosen)]
    config, choices = composer.composed(groups, resumed, lasting=not own.groups)
    for word in (*own.words, *words):
        if word not in chosen:
            setting.put(config, word)
    return config, choices


def _primary_of(word: Word) -> str | None:
    """The primary config of the run that `resume=` names, which Hydra is told; None: the usual."""
    if word.value is None:
        return None
    from orchestrator.compose.resuming import primary_config

    return primary_config(str(expand_home("resume", str(word.value))))


def _chooses(composer: "Composer", word: Word) -> bool:
    """Whether a word chooses a file of a group, rather than sets a value."""
    return not isinstance(word.value, dict) and bool(composer.choices(word.name.partition("@")[0]))


def _choice(word: Word) -> str:
    """The word as Hydra wants it."""
    from hydra.core.override_parser.types import Quote, QuotedString

    sign = "" if word.name in GROUPS else word.sign
    text = word.typed.partition("=")[2]
    if isinstance(word.value, Spelled):
        text = QuotedString(str(word.value), Quote.single).with_quotes()
    return f"{sign}{word.name}={text}"


def _job(composer: "Composer", words: Sequence[Word]) -> JobConfig:
    """One job, checked."""
    from omegaconf import OmegaConf

    from orchestrator.compose import refusal

    config, choices = _composed(composer, words)
    refusal.check_mixture(config, choices)
    job = cast(JobConfig, OmegaConf.to_object(config))
    refusal.check_read(job.stage, (word.name for word in words))
    refusal.check_effect(job, ((word.name, word.value) for word in words))
    return job


def _show(asked: Namespace, composer: "Composer", words: Sequence[Word]) -> None:
    """Print what --help, --cfg or --info is asked for."""
    from omegaconf import OmegaConf

    from orchestrator.compose import manual

    config, _ = _composed(composer, words)
    if asked.info:
        chosen = [_choice(word) for word in words if _chooses(composer, word)]
        composer.show_info(asked.info, chosen)
        return
    if asked.help:
        print(manual.text(config))
        return
    if asked.package is not None:
        config = OmegaConf.select(config, asked.package)
        if not OmegaConf.is_config(config):
            raise ValueError(f"--package={asked.package}: there is no such section")
        print(f"# @package {asked.package}")
    if asked.resolve:
        OmegaConf.resolve(config)
    print(OmegaConf.to_yaml(config), end="")
