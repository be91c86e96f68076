import os
import shutil
import time

import pytest

from data.files import in_use, is_in_use
from tests.orchestrator.typed import on, refused, trained, typed

DAY = 86400


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, with a folder of each kind that was used 40 days ago."""
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "cache"
    for name in ("data/sets/old", "data/plans/old", "data/work/old", "examples/old", "remote/old"):
        (root / name).mkdir(parents=True)
        (root / name / "bytes").write_bytes(bytes(1000))
        age(root / name)
    return root


def age(folder, days=40):
    then = time.time() - days * DAY
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


def left(root):
    return {str(path.relative_to(root).parent) for path in root.glob("**/bytes")}


def test_pruning_shows_first_and_takes_only_what_nobody_used_for_so_long(cache):
    age(cache / "data/sets/old", days=29)
    answer = typed("cache", "prune")
    assert answer.code == 0, answer
    assert "4 of 5 entries, 4 kB of 5 kB" in answer.out
    assert "nothing was removed; --yes removes it" in answer.out
    assert len(left(cache)) == 5
    assert "removed 4 kB" in typed("cache", "prune", "--yes").out
    assert left(cache) == {"data/sets/old"}
    assert "nothing was left unused for 30 days" in typed("cache", "prune", "--yes").out
    assert typed("cache", "prune", "--days", "28", "--yes").out.endswith("removed 1 kB\n")
    assert "0 B in" in typed("cache").out
    assert "--days=0 must be at least 1" in refused("cache", "prune", "--days", "0", "--yes")


def test_what_a_living_process_reads_stays_however_old_and_counts_as_used(cache):
    used = cache / "data/sets/old"
    with in_use([used, cache / "not-there"]):
        age(used)
        assert is_in_use(used)
        answer = typed("cache", "prune", "--yes")
        assert "2 more are as old, but a running job reads them" in answer.out
        assert left(cache) == {"data/sets/old", "data/plans/old"}
    assert not is_in_use(used)
    with in_use([used]):
        pass
    assert "0 days" in typed("cache").out.splitlines()[-2]


def test_what_was_pruned_is_made_again_for_the_next_run(cache, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = ("plan", "--with-data", *on(corpus), "stage.steps=2")
    first = typed(*job)
    assert first.code == 0, first
    assert "prepared in" in first.out
    assert "prepared in" not in typed(*job).out
    for kind in ("sets", "plans"):
        for folder in (cache / "data" / kind).glob("*/"):
            age(folder)
    typed("cache", "prune", "--yes")
    again = typed(*job)
    assert again.code == 0, again
    assert "prepared in" in again.out


@pytest.fixture(scope="module")
def base(corpus):
    """A run, made with the cache of the session."""
    return trained(corpus)


def test_weights_that_an_adapter_stands_beside_stay_however_old(
    base, cache, corpus, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, tmp_path / "there" / "2026-01-01" / "base")
    url = f"file://{tmp_path}/there/2026-01-01/base"
    learn = ("run", *on(corpus), "stage.steps=2", f"model.weights={url}", "model.adapter=lora")
    answer = typed(*learn, "outputs=mine")
    assert answer.code == 0, answer
    [fetched] = (cache / "runs").glob("*/")
    age(fetched)
    answer = typed("cache", "prune", "--yes")
    assert f"{fetched} (" in answer.out
    assert "runs with model.adapter stand beside its weights" in answer.out
    assert not (cache / "examples/old").exists()
    used = typed("generate", "mine/latest", "--prompt", "The", "--max-new-tokens", "2")
    assert used.code == 0, used
