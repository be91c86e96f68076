import json
import random

import pytest

from data import DataConfig, ShardSet, TokenizerConfig, prepare
from data.ask.compare import compare
from data.config import ContractConfig
from tests.data.numbered import shard_set

WORDS = [f"word{i}" for i in range(60)]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def train(tmp_path):
    """Texts and latitudes -> the train split of a dataset that was prepared from them."""

    def of(texts, latitudes, seed):
        path = tmp_path / f"{seed}.jsonl"
        rows = [{"text": t, "latitude": x} for t, x in zip(texts, latitudes, strict=True)]
        path.write_text("\n".join(map(json.dumps, rows)))
        contract = ContractConfig(columns={"latitude": "number"})
        config = DataConfig(source="jsonl", path=str(path), contract=contract)
        return prepare(config, TokenizerConfig(kind="bytes")).train

    return of


def made(seed, repeats=0):
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=30)) for _ in range(500 - repeats)]
    return texts + texts[:repeats], [draw.uniform(40, 60) for _ in range(500)]


def test_two_draws_from_one_source_are_alike_in_documents_and_columns(train):
    reports = compare("web", train(*made(1), 1), train(*made(2), 2))
    assert reports.keys() == {"web", "web columns"}
    assert all(report.passed for report in reports.values()), reports
    assert "duplicates" in reports["web"].checked


def test_copies_that_a_filter_left_out_and_radians_are_found(train):
    texts, latitudes = made(2, repeats=200)
    reports = compare("web", train(*made(1), 1), train(texts, [x / 57.29578 for x in latitudes], 2))
    words = {name: [f.words for f in report.findings] for name, report in reports.items()}
    assert words["web"] == ["duplicates: 0.0% -> 40.0% of the records are copies of others"]
    (radians,) = words["web columns"]
    assert radians.startswith("column latitude: unit changed: degrees -> radians (median ")


def test_shards_that_no_preparation_published_have_no_sketch_to_compare(tmp_path):
    folder = shard_set(tmp_path / "set", 500).folder
    with pytest.raises(ValueError, match="no sketch of this release"):
        compare("web", ShardSet.open(folder), ShardSet.open(folder))
