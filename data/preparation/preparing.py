"""From settings to something to train on: records -> split -> tokenizer -> shards, once.

The result stands in the cache under a hash of everything it depends on:
    data/keys/KEY.json     what sources look like from outside, and settings -> which set that is
    data/sets/SET/         train/, validation/, tokenizer.json, prepared.json; published by rename
    data/tokenizers/       tokenizers by their fingerprint
    data/work/KEY/         units of work that are done, of datasets that are not
Any number of processes may call `prepare` at once: one works, the others wait and open.
"""

import json
import shutil
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.addresses import hide
from data.config import DataConfig, SourceConfig
from data.drift.sketches import VERSION as SKETCHES
from data.files import (
    DamagedData,
    DataError,
    cache_root,
    json_sha256,
    lock,
    read_json,
    write_text_atomic,
)
from data.filters import filters_of
from data.messages import Passing, counted
from data.preparation.assemble import PREPARE_VERSION
from data.preparation.dataset import SETS, Dataset, Prepared, open_set
from data.preparation.making import left_out, make_datasets, scan_all
from data.preparation.running import Runner, Say, inline, read_progress
from data.preparation.scan import read_repeats, sampled_below, training_texts
from data.preparation.words import LONGEST_WORD, ShortWords
from data.preparation.work import WHOLE, DatasetWork, Input, limit_of
from data.shards import FORMAT_VERSION
from data.sources import is_local, outside_state, passed_over, tail_of, units_of
from data.tokenizer import Tokenizer, TokenizerConfig, load_or_train

WORK_KEPT_S = 7 * 24 * 3600  # work that nobody went on with for so long is removed


def _quiet(line: str) -> None:
    pass


def prepare(
    data: DataConfig, tokenizer: TokenizerConfig, say: Say = _quiet, run: Runner = inline
) -> Prepared:
    """The data of the settings: from the cache, or read, split, tokenized and stored now.

    Neither how `run` carries out the work nor what is killed meanwhile shows in the result. A
    killed process leaves the units that it had done; the next call goes on with the others.

    Args:
        data: which text.
        tokenizer: how it becomes tokens.
        say: gets a line per stage of the work, none when the cache has it; and what was left out.
        run: carries out the units of work; `inline` in this process.

    Raises:
        DataError: the text can't be used as asked, or the cache is damaged.
    """
    root = cache_root() / "data"
    try:
        request = _Request(root, data, tokenizer)
        if not request.is_known():
            with ExitStack() as stack:
                for key in sorted(set(request.outside.values())):
                    stack.enter_context(lock(root / "keys" / f"{key}.lock"))
                if not request.is_known():
                    _remove_stale(root / "work")
                    request.make(say, run)
    except OSError as error:  # read-only or full disk; sources name their own files
        raise DataError(
            f"the cache {root} can't be written ({error}); make room, or set ORCHESTRATE_CACHE=DIR"
        ) from error
    prepared = request.open()
    for name, dataset in prepared.datasets.items():
        if said := dataset.left_out():
            say(f"{name}: {said}")
    return prepared


def find_prepared(data: DataConfig, tokenizer: TokenizerConfig) -> Prepared | None:
    """The data of the settings if it is in the cache; nothing is made, read or fetched for it.

    Raises:
        DataError: there is nothing where the settings say, or the cache is damaged.
    """
    if not all(map(is_local, data.sources().values())):
        return None  # whether it has changed is known to a server
    request = _Request(cache_root() / "data", data, tokenizer)
    return request.open() if request.is_known() else None


class _Request:
    """What one call asks for, and where in the cache it stands or will stand."""

    def __init__(self, root: Path, data: DataConfig, settings: TokenizerConfig) -> None:
        self.root, self.data, self.settings = root, data, settings
        self.sets = cache_root() / SETS
        self.sources = data.sources()
        self.filters = {
            name: filters_of(
                source.filters, f"data.datasets.{name}.filters" if data.datasets else "data.filters"
            )
            for name, source in self.sources.items()
        }
        self.given = _given_tokenizer(settings)
        self.outside = {name: self._outside_key(name) for name in self.sources}

    def is_known(self) -> bool:
        """Whether all of it is in the cache."""
        tokenizer = self._tokenizer_name()
        return tokenizer is not None and all(self._set(n, tokenizer) for n in self.sources)

    def open(self) -> Prepared:
        """The data, which is in the cache."""
        tokenizer = self._tokenizer_name()
        datasets: dict[str, Dataset] = {}
        made = None
        for name, source in self.sources.items():
            folder = self._set(name, tokenizer) if tokenizer else None
            if folder is None:
                raise DataError(f"{self.root} lost dataset {name} just now; start again")
            own, dataset = open_set(folder, name, source.weight)
            others = passed_over(source)
            if (validation := source.validation_source()) and validation.path != source.path:
                others += passed_over(validation)
            datasets[name] = replace(dataset, passed_over=others)
            made = made or (own, folder / "tokenizer.json")
        assert made is not None  # a job has a dataset
        return Prepared(*made, datasets)

    def make(self, say: Say, run: Runner) -> None:
        """Make what is missing; the caller holds the locks."""
        name = self._tokenizer_name()
        for n, source in self.sources.items():
            if name is None or self._set(n, name) is None:
                count = len(self._inputs(n))
                say(Passing(f"reading {source.described} ({counted(count, 'unit')})"))
        path = None if name is None else self._tokenizer_path(name)
        if name is None or path is None or not path.is_file():
            tokenizer = self.given or self._train(say, run)
            name, path = tokenizer.fingerprint, self._tokenizer_path(tokenizer.fingerprint)
            tokenizer.save(path)
            if self.given is None:
                self._know(self._training_key(), {"tokenizer": name})
        tokenizer = Tokenizer.load(path)
        if tokenizer.fingerprint != name:
            raise DamagedData(f"{path} is damaged; delete it and start again")
        # By key, since two datasets of a mixture may be the same records under two names.
        missing = {self._set_key(n, name): n for n in self.sources if self._set(n, name) is None}
        datasets = [self._work(n, name) for n in missing.values()]
        folders = make_datasets(
            datasets, tokenizer, path, self.sets, run, say, self._check_unchanged
        )
        for dataset in datasets:
            self._know(self._set_key(dataset.name, name), {"set": folders[dataset.name].name})
            shutil.rmtree(dataset.folder, ignore_errors=True)
        for n in self.sources:
            shutil.rmtree(self._scan_folder(n), ignore_errors=True)

    def _train(self, say: Say, run: Runner) -> Tokenizer:
        """A tokenizer of the datasets that have a weight at the start."""
        datasets = [self._work(name) for name in self._weighted()]
        scan_all(datasets, run, say)
        no_copies: dict[int, Any] = {}
        chosen = []
        for dataset in datasets:
            near = dataset.filters.near is not None
            files = left_out(dataset) if near else []
            copies = [read_repeats(f) for f in files] or [no_copies] * len(dataset.inputs)
            chosen.append((dataset.scans, copies))
        texts = training_texts(chosen)
        self._check_unchanged()
        if not texts.documents:
            raise DataError(
                f"{datasets[0].source}: there is no text in its train split to train a tokenizer "
                "on; bring more text, or set tokenizer.kind=bytes"
            )
        say(
            f"training a tokenizer of {self.settings.vocab_size:,} tokens on {texts.documents:,} "
            f"documents, {texts.bytes:,} bytes"
        )
        watched = read_progress(texts, texts.bytes, "training a tokenizer", say)
        short = ShortWords(watched)
        tokenizer = load_or_train(self.settings, lambda: iter(short))
        if short.cut:
            say(
                f"training a tokenizer: {counted(short.cut, 'word')} of more than "
                f"{LONGEST_WORD:,} characters counted as several"
            )
        return tokenizer

    def _work(self, name: str, tokenizer: str | None = None) -> DatasetWork:
        key = self.outside[name] if tokenizer is None else self._set_key(name, tokenizer)
        below = 0
        if self.given is None and name in self._weighted():
            below = sampled_below(sum(len(self._inputs(n)) for n in self._weighted()))
        return DatasetWork(
            name,
            self.sources[name],
            self.filters[name],
            self._fraction(name),
            self.root / "work" / key,
            self._scan_folder(name),
            below,
            self._inputs(name),
        )

    @cache  # noqa: B019 - a request lives as long as its call
    def _inputs(self, name: str) -> list[Input]:
        source, columns = self.sources[name], self.filters[name].columns
        fraction = self._fraction(name)
        if fraction is not None:
            return [Input(source, unit, limit_of(fraction)) for unit in units_of(source, columns)]
        own = source.validation_source()
        if own is None:
            assert self.data.validation_fraction is not None  # filled in by the config
            train, validation = tail_of(source, self.data.validation_fraction)
        else:
            train, validation = units_of(source, columns), units_of(own, columns)
        return [
            *(Input(own or source, unit, WHOLE) for unit in validation),
            *(Input(source, unit, 0) for unit in train),
        ]

    def _fraction(self, name: str) -> float | None:
        """Of the split by hash. None: the settings say which input is for which split."""
        validation = self.sources[name].validation
        given = validation.own or validation.take == "tail"
        return None if given else self.data.validation_fraction

    def _scan_folder(self, name: str) -> Path:
        return self.root / "work" / self.outside[name]

    def _weighted(self) -> list[str]:
        return [name for name, source in self.sources.items() if source.weight is not None]

    def _outside_key(self, name: str) -> str:
        """Changes whenever the records of a dataset may have changed; no text is read for it."""
        source: SourceConfig = self.sources[name]
        settings = {k: v for k, v in asdict(source).items() if k not in ("weight", "filters")}
        own = source.validation_source()
        state = [outside_state(each) for each in (source, own) if each is not None]
        recipe = self.filters[name].recipe()
        fraction = self.data.validation_fraction
        return json_sha256([PREPARE_VERSION, settings, state, recipe, fraction])[:32]

    def _training_key(self) -> str:
        """Of the tokenizer that is trained on these datasets."""
        datasets = [self.outside[name] for name in self._weighted()]
        own = self.settings
        kind = [own.vocab_size, *(name for name in ("digits", "mask") if getattr(own, name))]
        return json_sha256(["tokenizer", datasets, *kind, version("tokenizers")])[:32]

    def _set_key(self, name: str, tokenizer: str) -> str:
        return json_sha256(["set", self.outside[name], tokenizer, FORMAT_VERSION, SKETCHES])[:32]

    def _tokenizer_name(self) -> str | None:
        """Fingerprint of the tokenizer, if it is known."""
        if self.given is not None:
            return self.given.fingerprint
        return self._known(self._training_key()).get("tokenizer")

    def _tokenizer_path(self, name: str) -> Path:
        return self.root / "tokenizers" / f"{name}.json"

    def _set(self, name: str, tokenizer: str) -> Path | None:
        """The folder of a dataset, if it is there."""
        found = self._known(self._set_key(name, tokenizer)).get("set")
        folder = self.sets / str(found)
        return folder if found and folder.is_dir() else None

    def _known(self, key: str) -> dict[str, str]:
        try:
            content = read_json(self.root / "keys" / f"{key}.json")
        except DataError:
            return {}  # only a pointer: the work finds the same thing again
        return content if isinstance(content, dict) else {}

    def _know(self, key: str, content: dict[str, str]) -> None:
        write_text_atomic(self.root / "keys" / f"{key}.json", json.dumps(content))

    def _check_unchanged(self) -> None:
        """Raise DataError if files were changed while they were read; the work on them is lost."""
        for name, source in self.sources.items():
            if self._outside_key(name) != self.outside[name]:
                keys = [self.outside[name]]
                if tokenizer := self._tokenizer_name():
                    keys.append(self._set_key(name, tokenizer))
                for key in keys:
                    shutil.rmtree(self.root / "work" / key, ignore_errors=True)
                raise DataError(
                    f"data.path={hide(str(source.path))} changed while it was read; start again"
                )


def _given_tokenizer(settings: TokenizerConfig) -> Tokenizer | None:
    """The tokenizer, if it need not be trained."""
    if settings.kind == "bpe":
        return None
    return load_or_train(settings, lambda: iter(()))


def _remove_stale(work: Path) -> None:
    """Remove the work of killed processes that nobody went on with."""
    for folder in work.glob("*"):
        with suppress(FileNotFoundError):  # another process was first
            if time.time() - folder.stat().st_mtime > WORK_KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)
