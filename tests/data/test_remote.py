"""Real servers on loopback that cut, change, refuse and count; real processes that ask at once."""

import base64
import gzip
import hashlib
import json
import multiprocessing
import os
import socket
import time

import pytest

from data.config import DataConfig
from data.files import DataError
from data.sources import outside_state, remote, units_of
from data.sources.remote import fetch, listing
from tests.data.sites import S3Site, Site
from tests.data.texts import documents


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(remote, "BACK_OFF", 0.01)
    return tmp_path / "cache"


@pytest.fixture
def site():
    served = Site()
    yield served
    served.close()


TEXT = b'{"text": "one"}\n{"text": "two"}\n'


def refused(url):
    with pytest.raises(DataError) as caught:
        fetch(url)
    return str(caught.value)


def test_a_file_is_downloaded_once_while_it_stays_the_same(site):
    site.files["/a.jsonl"] = TEXT
    path = fetch(f"{site.url}/a.jsonl")
    assert path.read_bytes() == TEXT
    assert path.name == "a.jsonl"
    assert fetch(f"{site.url}/a.jsonl") == path
    assert site.downloads == ["/a.jsonl"]


def test_a_file_that_changed_is_downloaded_again(site):
    url = f"{site.url}/a.jsonl"
    site.files["/a.jsonl"] = TEXT
    fetch(url)
    site.files["/a.jsonl"] = TEXT.replace(b"one", b"uno")  # of the same size
    assert b"uno" in fetch(url).read_bytes()
    assert fetch(url).parent.name == fetch(url).parent.name
    assert len(site.downloads) == 2


def test_a_copy_that_somebody_damaged_is_downloaded_again(site):
    site.files["/a.jsonl"] = TEXT
    path = fetch(f"{site.url}/a.jsonl")
    path.write_bytes(TEXT[:-1])
    assert fetch(f"{site.url}/a.jsonl").read_bytes() == TEXT


def test_a_server_that_tells_no_version_is_read_anew_each_time(site):
    site.etag = False
    site.files["/a.jsonl"] = TEXT
    fetch(f"{site.url}/a.jsonl")
    site.files["/a.jsonl"] = TEXT.replace(b"one", b"uno")
    assert b"uno" in fetch(f"{site.url}/a.jsonl").read_bytes()
    config = DataConfig(source="jsonl", path=f"{site.url}/a.jsonl")
    before = outside_state(config)
    assert outside_state(config) == before
    site.files["/a.jsonl"] = TEXT
    assert outside_state(config) != before


def test_a_connection_that_is_cut_once_is_tried_again(site):
    site.files["/a.jsonl"] = TEXT * 1000
    site.cut = 1
    assert fetch(f"{site.url}/a.jsonl").read_bytes() == TEXT * 1000
    assert len(site.downloads) == 2


def test_a_connection_that_is_always_cut_says_how_far_it_came(site, cache):
    site.files["/a.jsonl"] = TEXT * 1000
    site.cut = 99
    message = refused(f"{site.url}/a.jsonl")
    assert f"{site.url}/a.jsonl" in message
    assert "the connection was cut: 10,666 of 32,000 bytes came" in message
    assert "3 attempts" in message
    assert "data.path=FILE" in message
    assert len(site.downloads) == 3
    assert [p.name for p in cache.rglob("*") if p.is_file()] == ["lock"]


def test_a_checksum_that_does_not_fit_is_an_error(site):
    site.files["/a.jsonl"] = TEXT
    right = base64.b64encode(hashlib.md5(TEXT).digest()).decode()
    site.headers["/a.jsonl"] = {"Content-MD5": right}
    fetch(f"{site.url}/a.jsonl")
    site.files["/a.jsonl"] = TEXT.replace(b"one", b"uno")
    assert "the bytes are not those of the server: md5" in refused(f"{site.url}/a.jsonl")


def test_a_file_that_changes_during_the_download_is_not_kept(site):
    site.files["/a.jsonl"] = TEXT
    changing = iter(range(99))

    class Counting(dict):
        def get(self, path, default=None):
            return {"Last-Modified": f"version {next(changing)}"}

    site.headers = Counting()
    assert "it changed while it was downloaded" in refused(f"{site.url}/a.jsonl")


def test_errors_that_pass_are_tried_again_and_others_are_not(site):
    site.files["/a.jsonl"] = TEXT
    site.status = [503] * 3
    assert fetch(f"{site.url}/a.jsonl").read_bytes() == TEXT
    message = refused(f"{site.url}/b.jsonl")
    assert "there is no such file" in message
    site.status = [403, 403]  # to HEAD and to GET
    assert "access refused" in refused(f"{site.url}/a.jsonl")


def test_a_server_without_head_requests_works(site):
    site.head = False
    site.files["/a.jsonl"] = TEXT
    assert fetch(f"{site.url}/a.jsonl").read_bytes() == TEXT


def test_an_earlier_copy_is_named_when_the_server_is_gone(site):
    site.files["/a.jsonl"] = TEXT
    path = fetch(f"{site.url}/a.jsonl")
    site.status = [500] * 99
    assert f"an earlier copy: data.path={path}" in refused(f"{site.url}/a.jsonl")


def test_nobody_listens_is_said_in_seconds():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.monotonic()
    message = refused(f"http://127.0.0.1:{port}/a.jsonl")
    assert time.monotonic() - begun < 10
    assert f"data.path=http://127.0.0.1:{port}/a.jsonl: not fetched in 3 attempts" in message
    assert "check the address and the network" in message


def test_a_server_that_accepts_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.jsonl"
        begun = time.monotonic()
        assert "not fetched in 1 attempt (" in refused(url)
        assert time.monotonic() - begun < 10


def test_no_message_holds_a_password_or_a_query(site):
    host = site.url.removeprefix("http://")
    url = f"http://somebody:geheim@{host}/a.jsonl?X-Amz-Signature=geheim2"
    for statuses in ([], [403] * 9, [500] * 99):
        site.status = statuses
        message = refused(url)
        assert "geheim" not in message
        hidden = f"http://[redacted]@{host}/a.jsonl?X-Amz-Signature=[redacted]"
        assert hidden in message
    site.status = []
    site.files["/a.jsonl"] = b'{"text": 5}'
    with pytest.raises(DataError, match=r"a\.jsonl") as caught:
        list(documents(DataConfig(source="jsonl", path=url)))
    assert "geheim" not in str(caught.value)
    assert "geheim" not in json.dumps(outside_state(DataConfig(source="jsonl", path=url)))


def ask(url, cache, barrier, answers):
    os.environ["ORCHESTRATE_CACHE"] = cache
    os.environ["NO_PROXY"] = "127.0.0.1"
    barrier.wait()
    answers.put(fetch(url).read_bytes())


def test_processes_that_ask_at_once_download_once(site, cache):
    site.files["/a.jsonl"] = TEXT * 5000
    site.delay = 0.3
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(3), spawn.Queue()
    arguments = (f"{site.url}/a.jsonl", str(cache), barrier, answers)
    asking = [spawn.Process(target=ask, args=arguments) for _ in range(3)]
    for process in asking:
        process.start()
    assert all(answers.get(timeout=60) == TEXT * 5000 for _ in asking)
    for process in asking:
        process.join(timeout=60)
    assert site.downloads == ["/a.jsonl"]


def test_a_url_is_a_source_like_any_other(site):
    site.files["/a.jsonl.gz"] = gzip.compress(TEXT)
    # As some servers do: it would be unpacked on its way by a client that is too helpful.
    site.headers["/a.jsonl.gz"] = {"Content-Encoding": "gzip"}
    config = DataConfig(source="jsonl", path=f"{site.url}/a.jsonl.gz")
    assert list(documents(config)) == ["one", "two"]


def test_a_file_url_is_the_file_itself(tmp_path):
    path = tmp_path / "with space.txt"
    path.write_text("text")
    url = path.as_uri()
    assert "%20" in url
    assert fetch(url) == path
    assert list(documents(DataConfig(source="text", path=url))) == ["text"]
    assert list(documents(DataConfig(source="text", path=tmp_path.as_uri()))) == ["text"]
    assert "no such file" in refused(f"{url}.gone")


def test_folders_and_patterns_are_listed_where_the_server_can():
    import fsspec

    memory = fsspec.filesystem("memory")
    try:
        for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl.gz", "readme.txt"):
            content = gzip.compress(TEXT) if name.endswith(".gz") else TEXT
            memory.pipe(f"/corpus/{name}", content)
        found = [file.url for file in listing("memory://corpus/*.jsonl")]
        assert found == ["memory:///corpus/a.jsonl", "memory:///corpus/b.jsonl"]
        assert len(listing("memory://corpus")) == 4
        config = DataConfig(source="jsonl", path="memory://corpus")
        assert len(units_of(config)) == 3
        assert list(documents(config)) == ["one", "two"] * 3
        before = outside_state(config)
        time.sleep(0.01)
        memory.pipe("/corpus/a.jsonl", TEXT)
        assert outside_state(config) != before
        with pytest.raises(DataError, match=r"no \.parquet or \.arrow file"):
            units_of(DataConfig(source="parquet", path="memory://corpus"))
    finally:
        memory.rm("/corpus", recursive=True)


def test_unknown_kinds_of_urls_and_missing_drivers_name_the_remedy(monkeypatch):
    assert "known are http(s)://, s3://" in refused("gopher://host/a.jsonl")
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    message = refused("gs://bucket/a.jsonl")
    assert "pip install gcsfs" in message


@pytest.fixture
def s3(monkeypatch, tmp_path):
    pytest.importorskip("s3fs")
    served = S3Site()
    monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    yield served
    served.close()


def test_s3_is_listed_and_read_and_read_again_when_it_changes(s3):
    for name in ("a.jsonl", "deep/b.jsonl", "c.txt"):
        s3.files[f"/bucket/corpus/{name}"] = TEXT
    config = DataConfig(source="jsonl", path="s3://bucket/corpus")
    assert list(documents(config)) == ["one", "two"] * 2
    assert [f.url for f in listing("s3://bucket/corpus/*.jsonl")] == ["s3://bucket/corpus/a.jsonl"]
    before = outside_state(config)
    s3.downloads.clear()
    assert list(documents(config)) == ["one", "two"] * 2
    assert not s3.downloads
    s3.files["/bucket/corpus/a.jsonl"] = TEXT.replace(b"one", b"uno")
    assert list(documents(config)) == ["uno", "two", "one", "two"]
    assert outside_state(config) != before
    assert "there is no such file" in refused("s3://bucket/corpus/gone.jsonl")


def test_s3_without_credentials_says_which_to_set(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    message = refused("s3://bucket/corpus/a.jsonl")
    assert "AWS_ACCESS_KEY_ID" in message
    assert "FSSPEC_S3_ANON=true" in message
