import dataclasses
import json
import pickle
import shutil

import numpy as np
import pytest

from data import (
    DamagedData,
    DataConfig,
    DataError,
    Loader,
    Stream,
    TokenizerConfig,
    open_published,
    prepare,
)
from data.config import SourceConfig


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The config of a mixture, what the driver prepared of it, and its cache; the texts are gone.

    Nothing but the published sets is left, so whatever opens them can't have prepared them again.
    """
    folder = tmp_path_factory.mktemp("driver")
    for name, count in (("wiki", 300), ("code", 200)):
        lines = [json.dumps({"text": f"{name} {i} " + "word " * (i % 30)}) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    datasets = {
        name: SourceConfig(source="jsonl", path=str(folder / f"{name}.jsonl"), weight=weight)
        for name, weight in (("wiki", 3), ("code", 1))
    }
    config = DataConfig(datasets=datasets, sequence_length=16, packing="best_fit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHESTRATE_CACHE", str(folder / "cache"))
        prepared = prepare(config, TokenizerConfig(vocab_size=300))
    shutil.rmtree(folder / "cache" / "data" / "keys")
    for file in folder.glob("*.jsonl"):
        file.unlink()
    return config, prepared, folder / "cache"


@pytest.fixture
def elsewhere(driver, tmp_path, monkeypatch):
    """The cache of another host, with copies of the folders that the driver names and no more."""
    _, prepared, cache = driver
    root = tmp_path / "host" / "cache"
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(root))
    published = prepared.published()
    for here, there in zip(published.folders(cache), published.folders(root), strict=True):
        shutil.copytree(here, there)
    return root


def batches(config, prepared):
    loader = Loader(Stream.open(prepared.train_sets, config), config.sequence_length)
    steps = loader.stream(0, 8, 4, rank=1, world_size=2, prefetch=0)
    return [next(steps) for _ in range(6)]


def test_copies_of_the_named_folders_give_the_same_batches_on_another_host(driver, elsewhere):
    config, prepared, _ = driver
    published = pickle.loads(pickle.dumps(prepared.published()))
    opened = open_published(published)
    assert opened.fingerprint == prepared.fingerprint
    assert opened.published() == published
    assert opened.tokenizer.fingerprint == prepared.tokenizer.fingerprint
    assert opened.tokenizer_path.is_relative_to(elsewhere)
    assert (opened.facts, opened.baselines) == (prepared.facts, prepared.baselines)
    for ours, theirs in zip(batches(config, opened), batches(config, prepared), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_array_equal(a.loss_mask, b.loss_mask)


def test_a_shared_cache_is_opened_where_it_is(driver, tmp_path, monkeypatch):
    _, prepared, cache = driver
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path))
    opened = open_published(prepared.published(), cache)
    assert [d.folder for d in opened.datasets.values()] == prepared.published().folders(cache)
    assert not (tmp_path / "data").exists()


def test_a_set_that_a_rank_can_not_see_is_named_with_its_folder(driver, elsewhere):
    _, prepared, _ = driver
    published = prepared.published()
    code = published.folders()[1]
    shutil.rmtree(code)
    with pytest.raises(DataError, match="dataset code: ") as caught:
        open_published(published)
    assert str(code) in str(caught.value)
    assert "ORCHESTRATE_CACHE=DIR" in str(caught.value)


@pytest.mark.parametrize("part", ["prepared.json", "tokenizer.json", "train/index.arrow"])
def test_a_set_that_was_copied_in_part_is_damaged(driver, elsewhere, part):
    _, prepared, _ = driver
    published = prepared.published()
    (published.folders()[0] / part).unlink()
    with pytest.raises(DamagedData) as caught:
        open_published(published)
    assert str(published.folders()[0]) in str(caught.value)


def test_another_set_under_the_name_is_not_taken_for_it(driver, elsewhere):
    _, prepared, _ = driver
    published = prepared.published()
    wiki, code = published.folders()
    shutil.rmtree(wiki)
    shutil.copytree(code, wiki)
    with pytest.raises(DamagedData, match=r"dataset wiki: .* other data than the driver prepared"):
        open_published(published)


def test_the_fingerprint_of_what_is_published_changes_with_each_part(driver):
    published = driver[1].published()
    first, second = published.sets
    others = [
        dataclasses.replace(published, sets=(second, first)),
        dataclasses.replace(published, sets=(first,)),
        dataclasses.replace(published, sets=(dataclasses.replace(first, weight=7), second)),
    ]
    assert len({published.fingerprint, *(own.fingerprint for own in others)}) == 4
