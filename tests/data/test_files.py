import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.files import (
    DataError,
    cache_root,
    lock,
    publish,
    read_utf8,
    sha256_file,
    write_text_atomic,
)

HOLDER = """
import sys, time
from pathlib import Path
from data.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_sha256_of_a_file_is_what_coreutils_says(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(300_000))
    said = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert sha256_file(path) == said.split()[0]


def test_an_atomic_write_replaces_the_text_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_text_atomic(path, "old")
    write_text_atomic(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert list(path.parent.iterdir()) == [path]


def test_an_atomic_write_follows_the_umask(tmp_path):
    write_text_atomic(tmp_path / "ours", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_atomic_write_keeps_the_old_text(tmp_path):
    path = tmp_path / "file"
    write_text_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_publish_moves_a_whole_folder_and_never_replaces_one(tmp_path):
    for text in ("first", "second"):
        (tmp_path / "x.partial" / "deep").mkdir(parents=True)
        (tmp_path / "x.partial" / "deep" / "file").write_text(text)
        if text == "first":
            publish(tmp_path / "x.partial", tmp_path / "x")
        else:
            with pytest.raises(FileExistsError, match="exists already"):
                publish(tmp_path / "x.partial", tmp_path / "x")
    assert (tmp_path / "x" / "deep" / "file").read_text() == "first"


def test_a_lock_waits_for_its_holder_and_a_killed_holder_frees_it(tmp_path):
    path = tmp_path / "locks" / "lock"
    holder = start_holder(path)
    waiter = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    time.sleep(0.5)
    os.set_blocking(waiter.stdout.fileno(), False)
    assert waiter.stdout.buffer.raw.read() is None  # has said nothing: it waits
    os.set_blocking(waiter.stdout.fileno(), True)
    holder.send_signal(signal.SIGKILL)
    assert waiter.stdout.readline() == "held\n"
    waiter.kill()
    for process in (holder, waiter):
        process.wait()
        process.stdout.close()
    with lock(path):
        pass


def test_the_cache_stands_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ORCHESTRATE_CACHE", raising=False)
    assert cache_root() == tmp_path / "orchestrate"
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
    monkeypatch.delenv("ORCHESTRATE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "orchestrate"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"ab\0c", "binary file: a NUL byte at offset 2"),
        (b"caf\xe9 noir", "not UTF-8: byte 0xe9 at offset 3"),
        ("text".encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08\x01", "not UTF-8: byte 0x8b at offset 1"),
    ],
)
def test_what_is_not_utf8_text_is_refused_with_its_place(tmp_path, raw, message):
    path = tmp_path / "input.txt"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message) as caught:
        read_utf8(path)
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_text_and_line_ends_are_kept(tmp_path):
    path = tmp_path / "input.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read_utf8(path) == "one\r\ntwo\n"
