import json
import math
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from orchestrator.record.journal import Journal
from orchestrator.record.lines import JournalError, at_step, last_line, read


def strict_json(path):
    """Every line parsed by a JSON parser that refuses NaN and infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_lines_are_there_at_once_and_come_back_as_written(tmp_path):
    with Journal(tmp_path, attempt=3) as book:
        book.metrics(7, {"train/loss": 1.5, "train/tokens": 10})
        book.event("checkpoint", step=7, path=tmp_path / "c", metrics={"loss": np.float32(0.5)})
        lines, end = read(tmp_path / "metrics.jsonl")
        events, _ = read(tmp_path / "events.jsonl")
    assert lines[0]["metrics"] == {"train/loss": 1.5, "train/tokens": 10.0}
    assert (lines[0]["step"], lines[0]["attempt"]) == (7, 3)
    assert end == (tmp_path / "metrics.jsonl").stat().st_size
    assert events[0]["event"] == "checkpoint"
    assert events[0]["path"] == str(tmp_path / "c")
    assert events[0]["metrics"] == {"loss": 0.5}


def test_nan_and_infinity_are_strict_json_and_floats_again_when_read(tmp_path):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float64("nan"), "e": 1e308}
    with Journal(tmp_path) as book:
        book.metrics(1, values)
        book.event(
            "checkpoint", step=1, path="c", metrics=values, worst=[math.nan, {"x": math.inf}]
        )
    strict_json(tmp_path / "metrics.jsonl")
    events = strict_json(tmp_path / "events.jsonl")
    assert events[0]["worst"] == ["NaN", {"x": "Infinity"}]
    for name in ("metrics.jsonl", "events.jsonl"):
        got = read(tmp_path / name)[0][0]["metrics"]
        assert math.isnan(got["a"])
        assert math.isnan(got["d"])
        assert (got["b"], got["c"], got["e"]) == (math.inf, -math.inf, 1e308)


def test_reading_goes_on_from_an_offset_and_leaves_a_torn_line_for_later(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Journal(tmp_path) as book:
        for step in range(5):
            book.metrics(step, {"x": float(step)})
    whole = path.read_bytes()
    cuts = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        lines, end = read(path)
        assert end == max([c for c in cuts if c <= cut], default=0)
        path.write_bytes(whole)
        rest, final = read(path, end)
        assert [line["step"] for line in lines + rest] == [0, 1, 2, 3, 4]
        assert final == len(whole)


def test_max_bytes_bounds_a_call_and_the_calls_join_to_the_whole(tmp_path):
    with Journal(tmp_path) as book:
        for step in range(50):
            book.metrics(step, {"x": 1.0})
    steps, offset, calls = [], 0, 0
    while True:
        lines, offset = read(tmp_path / "metrics.jsonl", offset, max_bytes=300)
        if not lines:
            break
        calls += 1
        steps += [line["step"] for line in lines]
    assert steps == list(range(50))
    assert calls > 5


def test_a_missing_file_has_no_lines(tmp_path):
    assert read(tmp_path / "metrics.jsonl") == ([], 0)
    assert last_line(tmp_path / "metrics.jsonl") is None


@pytest.mark.parametrize("damage", [b"garbage\n", b"\x00\xff\n", b"[1]\n", b'{"a": NaN}\n', b"\n"])
def test_a_damaged_middle_line_is_named_with_file_and_line(tmp_path, damage):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "a"}\n{"event": "b"}\n' + damage + b'{"event": "c"}\n')
    with pytest.raises(JournalError, match=r"events\.jsonl:3 is damaged"):
        read(path)
    with pytest.raises(JournalError, match=r"events\.jsonl:3 "):
        read(path, len(b'{"event": "a"}\n'))


def test_the_torn_line_of_a_killed_writer_is_cut_off_by_the_next_one(tmp_path):
    with Journal(tmp_path) as book:
        book.metrics(1, {"x": 1.0})
    path = tmp_path / "metrics.jsonl"
    for torn in (b'{"time_ms": 1, "att', b"x" * 200_000):
        with path.open("ab") as file:
            file.write(torn)
        with Journal(tmp_path, attempt=2) as book:
            book.metrics(2, {"x": 2.0})
    assert [line["step"] for line in read(path)[0]] == [1, 2, 2]


def test_a_journal_with_only_a_torn_line_starts_anew(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b'{"eve')
    Journal(tmp_path).close()
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_last_line_and_lines_of_a_step(tmp_path):
    with Journal(tmp_path) as book:
        for step in (1, 11, 111, 1):
            book.metrics(step, {"x": float(step), "pad": 1.0 / 3})
    path = tmp_path / "metrics.jsonl"
    assert last_line(path)["step"] == 1
    assert [line["step"] for line in at_step(path, 1)] == [1, 1]
    assert [line["step"] for line in at_step(path, 11)] == [11]


def test_what_was_written_survives_kill_9_of_the_writer(tmp_path):
    code = f"""
        from pathlib import Path
        from orchestrator.record.journal import Journal
        book = Journal(Path({str(tmp_path)!r}))
        step = 0
        while True:
            book.metrics(step, {{"x": float(step)}})
            print(step, flush=True)
            step += 1
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    with process:
        while (last := int(process.stdout.readline())) < 200:
            pass
        process.send_signal(signal.SIGKILL)
    steps = [line["step"] for line in read(tmp_path / "metrics.jsonl")[0]]
    assert steps == list(range(len(steps)))
    assert len(steps) > last


def write_until_full(book):
    for step in range(1000):
        book.metrics(step, {"x": 0.1})


def test_a_full_disk_leaves_whole_lines_only(tmp_path):
    """A file size limit cuts a write short, as a full disk does."""
    book = Journal(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_until_full(book)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")
    book.metrics(1000, {"x": 0.1})
    book.close()
    steps = [line["step"] for line in read(tmp_path / "metrics.jsonl")[0]]
    assert steps == [*range(len(steps) - 1), 1000]


def test_what_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path):
    with Journal(tmp_path) as book, pytest.raises(TypeError, match="can't hold"):
        book.event("odd", thing=object())
    assert (tmp_path / "events.jsonl").stat().st_size == 0


def test_closing_twice_is_harmless(tmp_path):
    book = Journal(tmp_path)
    book.close()
    book.close()
