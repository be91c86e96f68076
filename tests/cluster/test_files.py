"""A cluster of two nodes, of which one does not share the driver's cache; started by the test.

The second node lives in a mount namespace of its own, with an empty file system over the cache.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import files
from cluster.files import publish, survey, write_chunk

ROOT = Path(__file__).parents[2]
VARIABLE = "TEST_CACHE"


def fill(root):
    """A prepared set (a folder), and a file, below the root."""
    (root / "sets" / "wiki" / "shards").mkdir(parents=True)
    (root / "sets" / "wiki" / "meta.json").write_text("{}")
    (root / "sets" / "wiki" / "empty").touch()
    (root / "sets" / "wiki" / "shards" / "0.bin").write_bytes(os.urandom(5_000_000))
    (root / "tokenizer.json").write_text("a tokenizer")


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != files.LOCK
    }


PATHS = (Path("sets/wiki"), Path("tokenizer.json"))


def carry(root, own, token, paths=PATHS):
    """What `bring` does, with direct calls."""
    for path in paths:
        wanted = files.listing(root / path)
        for name, offset, chunk in files._chunks(root / path, wanted):
            write_chunk(files._partial(own / path, token), name, offset, chunk)
        yield lambda path=path, wanted=wanted: publish(own / path, token, wanted)


@pytest.fixture
def roots(tmp_path, monkeypatch):
    root, own = tmp_path / "driver", tmp_path / "host"
    fill(root)
    monkeypatch.setattr(files, "CHUNK_BYTES", 1_000_000)
    monkeypatch.setenv(VARIABLE, str(own))
    return root, own


def look(root, own):
    listings = {path: files.listing(root / path) for path in PATHS}
    # The driver's path does not exist on the host.
    return survey(root.with_name("not-here"), VARIABLE, "~/nowhere", listings)


def test_a_copy_is_seen_only_when_it_is_whole_and_is_known_again(roots):
    root, own = roots
    assert look(root, own).missing == PATHS
    for publish_now in list(carry(root, own, "a")):
        assert not any(path in PATHS for path in contents(own))
        assert look(root, own).missing
        publish_now()
    assert contents(own) == contents(root)
    assert (look(root, own).root, look(root, own).missing) == (own, ())
    (root / "tokenizer.json").write_text("another one")
    assert look(root, own).missing == (Path("tokenizer.json"),)


def test_two_jobs_that_copy_the_same_set_do_not_disturb_each_other(roots):
    root, own = roots
    first, second = list(carry(root, own, "a")), list(carry(root, own, "b"))
    for publish_now in [*first, *second]:
        publish_now()
    assert contents(own) == contents(root)


def test_jobs_that_replace_a_set_at_the_same_moment_do_not_disturb_each_other(roots):
    root, own = roots
    (root / "set").mkdir()
    (root / "set" / "0.bin").write_bytes(b"whole")
    wanted = files.listing(root / "set")
    for number in range(100):
        place = own / str(number)
        place.mkdir(parents=True)
        (place / "half").write_text("a part")
        tokens = [f"{number}-{job}" for job in range(3)]
        for token in tokens:
            write_chunk(files._partial(place, token), "0.bin", 0, b"whole")

        def publish_and_look(token, place=place):
            publish(place, token, wanted)
            return place.stat().st_ino

        with ThreadPoolExecutor(3) as jobs:
            seen = set(jobs.map(publish_and_look, tokens))
        assert len(seen) == 1  # no job took away what another had begun to read
        assert contents(place) == {"0.bin": b"whole"}


def test_an_incomplete_set_is_replaced_and_what_a_killed_driver_left_is_removed(roots):
    root, own = roots
    (own / "sets" / "wiki").mkdir(parents=True)
    (own / "sets" / "wiki" / "half").write_text("a part")
    (left := own / "sets" / ".wiki.partial-old").mkdir()
    os.utime(left, (time.time() - 2 * files.STALE_S,) * 2)
    assert look(root, own).missing == PATHS
    assert not left.exists()
    for publish_now in list(carry(root, own, "a")):
        publish_now()
    assert contents(own) == contents(root)


HEAD = """
import json, ray, sys, time
context = ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20,
                   _temp_dir=sys.argv[1], log_to_driver=False)
print(json.dumps(context.address_info["gcs_address"]), flush=True)
deadline = time.monotonic() + 60
while len(ray.nodes()) < 2 and time.monotonic() < deadline:
    time.sleep(0.2)
print(len(ray.nodes()), flush=True)
sys.stdin.read()
ray.shutdown()
"""
OWN_MOUNT = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
NODE = (
    "-m",
    "ray.scripts.scripts",
    "start",
    "--num-cpus=1",
    "--block",
    "--disable-usage-stats",
    "--object-store-memory=100000000",
)
DRIVER = """
import json, os, sys, threading, time
from pathlib import Path
from cluster.gang import Files, Gang, Placement
from cluster.files import FilesNotBrought, nodes_that_see
from cluster.pool import FolderNotSeen, pool

address, cache, blind = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
logs, alone = Path(sys.argv[4]), Path(sys.argv[5])

def read(payload, channel):
    root = Path(os.environ["TEST_CACHE"]) / "sets"
    found = [p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")]
    files = {str(p.relative_to(root)): len(p.read_bytes()) for p in found}
    return str(root.parent), files, (root.parent / "tokenizer.json").read_text()

def gang(paths, say):
    files = Files(cache, tuple(map(Path, paths)), "TEST_CACHE", str(blind))
    with Gang(Placement(2, 1, address=address), log_folder=logs, stop=threading.Event(),
              files=files, say=say) as gang:
        gang.start()
        return gang.run(read, None, lambda rank, records: None)

def node(number):
    import ray
    return ray.get_runtime_context().get_node_id()

told = {"said": [], "said_again": []}
told["results"] = gang(["sets/wiki", "tokenizer.json"], told["said"].append)
told["again"] = gang(["sets/wiki", "tokenizer.json"], told["said_again"].append)
try:
    gang(["large"], print)
except FilesNotBrought as error:
    told["refused"] = str(error)
with pool(Placement(2, 1, address=address), log_folder=logs, visible=cache) as workers:
    told["nodes"] = len(set(workers.run(node, range(6))))
try:
    with pool(Placement(2, 1, address=address), log_folder=logs, visible=alone) as workers:
        workers.run(node, range(6))
except FolderNotSeen as error:
    told["not_seen"] = str(error)
print(json.dumps(told))
"""


def start(arguments, **environment):
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token",
             "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "RAY_USAGE_STATS_ENABLED": "0",
             **environment},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_node_that_does_not_share_the_cache_gets_the_files_once_and_no_pool_worker(
    tmp_path, tmp_path_factory
):
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us make a mount namespace (unshare --mount)")
    cache, blind, alone = tmp_path / "cache", tmp_path / "blind", tmp_path / "alone"
    fill(cache)
    alone.mkdir()
    with (cache / "large").open("wb") as large:
        large.truncate(2**43)  # a hole: no host has room for that
    with start([sys.executable, "-c", HEAD, str(tmp_path_factory.mktemp("r"))]) as head:
        line = head.stdout.readline()
        assert line, head.stderr.read()
        address = json.loads(line)
        arguments = [*OWN_MOUNT, str(cache), sys.executable, *NODE, f"--address={address}"]
        with start(arguments) as node:
            try:
                assert head.stdout.readline() == "2\n"
                folders = [str(cache), str(blind), str(tmp_path / "logs"), str(alone)]
                arguments = [*OWN_MOUNT, str(alone), sys.executable, "-c", DRIVER, address]
                with start([*arguments, *folders]) as driver:
                    output, errors = driver.communicate(timeout=120)
            finally:
                node.terminate()
                node.communicate(timeout=30)
        head.communicate(timeout=30)
    assert driver.returncode == 0, errors
    told = json.loads(output.splitlines()[-1])
    for results in (told["results"], told["again"]):
        assert {result[0] for result in results} == {str(cache), str(blind)}
    sizes = {name: len(data) for name, data in contents(cache / "sets").items()}
    assert [result[1:] for result in told["results"]] == [[sizes, "a tokenizer"]] * 2
    assert contents(blind / "sets") == contents(cache / "sets")
    assert len(told["said"]) == 2
    assert f"does not see {cache}: copying 5.0 MB to {blind} there" in told["said"][0]
    assert told["said_again"] == []  # it has them
    assert "does not fit" in told["refused"]
    assert told["nodes"] == 1
    assert f"0 see {alone} of this host" in told["not_seen"]
