"""The data of a job, made once, by the process that starts it."""

import re
from collections.abc import Mapping
from dataclasses import replace

from data import DataConfig, Prepared, Tokenizer, TokenizerConfig, find_prepared, prepare
from data.addresses import hide
from data.ask.estimate import Estimate, estimate
from data.config import SINGLE, SourceConfig
from data.messages import size
from data.preparation.work import PROCESS_BYTES
from data.tokenizer import load_or_train, vocab_size
from orchestrator.config import JobConfig
from orchestrator.stages.language.tokenizing import tokenizing
from orchestrator.stages.stage import Say
from orchestrator.stages.weights import verified_weights


def make_data(config: JobConfig, say: Say, workers: int | None = None) -> Prepared:
    """The data of the job, from the cache or made now.

    Args:
        config: the job.
        say: gets a line for each stage of the work.
        workers: processes that work on it. None: one per core, where there is enough to do.

    Raises:
        DataError: the text can't be used as asked.
    """
    with tokenizing(config.resources, say, workers) as run:
        prepared = prepare(config.data, config.tokenizer, say, run)
    if config.tokenizer.kind == "bpe":
        asked, found = vocab_size(config.tokenizer), prepared.tokenizer.vocab_size
        if found < asked:
            say(f"tokenizer.vocab_size={asked}: this text fills {found} tokens, and has no more")
    return prepared


def text_of_weights(config: JobConfig) -> JobConfig:
    """The job with its text in the tokens of the weights that its first model starts from."""
    model = config.role(config.role_names[0]).model
    assert model.weights is not None  # the stage has checked it
    found = verified_weights(model.weights, model.weights_role, allow_pickle=model.allow_pickle)
    assert found.tokenizer is not None  # see `tokenizer_of_weights`
    return replace(config, tokenizer=TokenizerConfig(kind="file", path=str(found.tokenizer)))


def find_data(config: JobConfig) -> Prepared | None:
    """The data of the job, if it has been made before; nothing is made or read for it."""
    return find_prepared(config.data, config.tokenizer)


def about(config: JobConfig) -> dict[str, Estimate] | None:
    """About how much each dataset of the job holds; None if that can't be seen from here."""
    return estimate(config.data, config.tokenizer)


def estimated_line(config: JobConfig, found: Mapping[str, Estimate] | None, *splits: str) -> str:
    """The data of a job in a line of its plan, as far as it is known before it is made."""
    if found is None:
        return f"{describe(config.data)}: not on this machine; --with-data fetches and counts it"
    tokens = {
        "train": sum(own.train for own in found.values()),
        "validation": sum(own.validation for own in found.values()),
    }
    shown = " and ".join(f"{rounded(tokens[split])} {split}" for split in splits)
    looked = size(sum(own.sampled_bytes for own in found.values()))
    return (
        f"{describe(config.data)}: about {shown} tokens, by a look at {looked} of the text; "
        f"--with-data counts them, in processes of at most {size(PROCESS_BYTES)} each"
    )


def rounded(count: float) -> str:
    """An estimate for a reader, with two digits: 1,300,000."""
    digits = max(0, len(str(int(count))) - 2)
    return f"{round(count, -digits):,.0f}"


def describe(data: DataConfig) -> str:
    """Which data it is, in a few words."""
    return " + ".join(map(_described, data.sources().values()))


def _described(source: SourceConfig) -> str:
    name, own = source.described, source.validation
    if own.take == "tail":
        return f"{name}, its tail for validation"
    given = hide(own.path) if own.path else own.split
    return f"{name}, {given} for validation" if given else name


def dataset_names(data: DataConfig) -> dict[str, str]:
    """What the datasets of a job are called wherever a person reads of them, by their keys.

    The only one of a job has no name of its own: it is that of its files, or of its kind.
    """
    return {
        key: _name_of(source.path) or source.source if key == SINGLE else key
        for key, source in data.sources().items()
    }


def _name_of(path: str | None) -> str:
    """The last part of a path that is no pattern, without its suffix."""
    parts = (path or "").partition("?")[0].partition("://")
    names = [part for part in (parts[2] or parts[0]).split("/") if not re.search(r"[*\[{]", part)]
    return next((name.partition(".")[0] for name in reversed(names) if name.strip(".")), "")


def check_records(config: JobConfig) -> None:
    """Raise ValueError for data that next-token prediction can't learn from."""
    for name, source in config.data.sources().items():
        if source.records == "preferences":
            where = "data" if name == SINGLE else f"data.datasets.{name}"
            raise ValueError(
                f"{where}.records=preferences are pairs of a good and a bad answer, and "
                f"stage={config.stage.name} would learn both; try {where}.records=conversations "
                "with the good ones, or look at them with `orchestrate data inspect`"
            )


def check_repetition(config: JobConfig, steps: int, repetitions: Mapping[str, float]) -> None:
    """Raise ValueError if the job sees a dataset more often than `data.max_repetition` allows."""
    most = config.data.max_repetition
    for name, epochs in repetitions.items():
        if most is not None and epochs > most:
            raise ValueError(
                f"data.max_repetition={most:g}, but stage.steps={steps} see dataset {name} "
                f"{epochs:.3g} times; try stage.steps={int(steps * most / epochs)}, a smaller "
                f"weight, more text, or data.max_repetition={epochs:.3g}"
            )


def check_same_tokenizer(config: JobConfig, prepared: Prepared | None = None) -> None:
    """Raise ValueError unless the job has the tokenizer that `model.weights` were trained with.

    One that the job trains is known when the data is prepared; before, its size must be right.
    """
    model = config.role("model").model
    if model.weights is None or config.resume is not None:
        return
    path = verified_weights(
        model.weights, model.weights_role, allow_pickle=model.allow_pickle
    ).tokenizer
    if path is None:
        return
    wanted, settings = Tokenizer.load(path), config.tokenizer
    if prepared is not None:
        same = prepared.tokenizer.fingerprint == wanted.fingerprint
    elif settings.kind == "bpe":
        same = settings.vocab_size == wanted.vocab_size
    else:
        given = load_or_train(settings, lambda: iter(()))
        same = given.fingerprint == wanted.fingerprint
    if not same:
        raise ValueError(
            f"model.weights={model.weights} know the tokens of their own tokenizer only; "
            f"add tokenizer=file tokenizer.path={path}"
        )
