"""Made-up runs as a job leaves them, and what MLflow should have of them and has."""

import json
import math
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import yaml

from orchestrator.record.journal import Journal
from orchestrator.record.lines import read

ROOT = Path(__file__).parents[2]
CONSTANT = "train/learning_rate"  # of a run that was played
SECRETS = ("hf_SeCrEtToKeN", "pa55word-of-bob", "two words secret")


def make_run(outputs, name="12-00-00-pretrain-abc123"):
    """A run folder as a job has it before its first step."""
    folder = outputs / "2026-01-01" / name
    (folder / "logs").mkdir(parents=True)
    config = {
        "stage": {"name": "pretrain", "steps": 60},
        "model": {"width": 64, "num_key_value_heads": 4, "name@odd": None},
        "data": {"url": f"https://bob:{SECRETS[1]}@host/x", "pad_token": "<pad>"},
        "hub": {"token": SECRETS[0], "password": SECRETS[2]},
        "many": {f"setting_{i}": i for i in range(230)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump([f"hub.token={SECRETS[0]}"]))
    code = {
        "commit": "c" * 40,
        "dirty": True,
        "host": "here",
        "command": f"orchestrate run hub.token={SECRETS[0]} hub.password='{SECRETS[2]}'",
    }
    (folder / "code.json").write_text(json.dumps(code))
    (folder / "logs" / "rank-0.log").write_text(f"signed in with {SECRETS[0]} at bob\n")
    (folder / "tokenizer.json").write_text('{"vocab": {"a": 1}}')
    (folder / "samples.txt").write_text("Once upon a time\n")
    return folder


def play(folder, steps=60, pause=0.0, status="done", every=10):
    """Write what a job writes, with a resume at 2/3 of the way back to 1/2 of it."""
    died, resumed = steps * 2 // 3, steps // 2
    with Journal(folder) as book:
        score = {"metric": "validation/loss", "lower_is_better": True}
        roles = {"model": {"family": "gpt", "parameters": 2557632}}
        book.event("started", score=score, roles=roles)
        book.event("baselines", loss={"unigram": 4.8, "gzip": 2.4})
        for split in ("train", "validation"):
            facts = {"fingerprint": "f" * 64, "documents": 10, "bytes": 1000, "tokens": 300}
            facts["columns"] = {"text": "string"}
            source = f"https://bob:{SECRETS[1]}@host/x"
            book.event("dataset", name="tiny", source=source, split=split, **facts)
        book.event(
            "tokenizer", path="tokenizer.json", fingerprint="t" * 64, vocab_size=512, kind="bpe"
        )
        for attempt, first, last in ((1, 1, died), (2, resumed + 1, steps)):
            book.attempt = attempt
            if attempt > 1:
                book.event("resumed", step=first - 1, path=f"checkpoints/step_{first - 1:08d}")
            for step in range(first, last + 1):
                loss = math.nan if step == 7 else 2 + 1 / step
                speed = math.inf if step == 8 else 1000.0 * attempt + step
                trained = {"train/loss": loss, "train/tokens_per_second": speed}
                book.metrics(step, {**trained, CONSTANT: 1e-3})
                if step % every == 0:
                    measured = {"validation/loss": 2 + 2 / step}
                    book.metrics(step, measured)
                    path = folder / "checkpoints" / f"step_{step:08d}"
                    path.mkdir(parents=True, exist_ok=True)
                    place = path.relative_to(folder)
                    facts = {"manifest_sha256": "d" * 64, "bytes": 5, "metrics": measured}
                    book.event("checkpoint", step=step, path=place, **facts)
                time.sleep(pause)
        book.event("artifact", path="samples.txt", artifact_path="texts")
        for name in ("first", "second"):
            (folder / f"{name}.json").write_text('{"columns": ["a"], "data": [[1]]}')
            book.event("artifact", path=f"{name}.json", table=True)
        book.event("finished", status=status)
    result = {"status": status, "steps": steps, "metrics": {"validation/loss": 2.1}, "attempts": 2}
    (folder / "result.json").write_text(json.dumps(result))


def expected_points(folder, *, counting=True):
    """Points of the journal as MLflow stores them, by a rule for attempts that follow each other.

    What a later attempt went on from before is no longer counting. A value that a step had before
    is the same point.
    """
    events, lines = read(folder / "events.jsonl")[0], read(folder / "metrics.jsonl")[0]
    starts = {event["attempt"]: event["step"] for event in events if event["event"] == "resumed"}
    points, first = set(), {}
    if counting and (roles := events[0].get("roles")):
        count = roles["model"]["parameters"]
        points.add(("model/parameters", 0, events[0]["time_ms"], count, False))
    for line in lines:
        step, after = line["step"], [s for n, s in starts.items() if n > line["attempt"]]
        for key, value in line["metrics"].items():
            if key == CONSTANT:  # a param, not a curve
                continue
            time_ms = first.setdefault((key, step, str(value)), line["time_ms"])
            if counting is (step <= min(after, default=step)):
                stored = (
                    0.0
                    if math.isnan(value)
                    else max(min(value, sys.float_info.max), -sys.float_info.max)
                )
                for name in (key, f"result/{key}") if key == "validation/loss" else (key,):
                    points.add((name, step, time_ms, stored, math.isnan(value)))
    return sorted(points)


def assert_sent(database, run_id, folder):
    """All that counts is there, last in its step; else only what counted when it was sent."""
    sent, counting = points(database, run_id), expected_points(folder)
    superseded = set(sent) - set(counting)
    assert set(sent) >= set(counting)
    assert superseded <= set(expected_points(folder, counting=False))
    times = {(key, step): time_ms for key, step, time_ms, *_ in counting}
    assert all(t < times.get((key, step), math.inf) for key, step, t, *_ in superseded)
    return superseded


def rows(database, query, *values):
    with sqlite3.connect(f"{Path(database).absolute().as_uri()}?mode=ro", uri=True) as connection:
        found = connection.execute(query, values).fetchall()
    connection.close()
    return found


def points(database, run_id):
    query = """SELECT key, step, timestamp, value, is_nan FROM metrics
               WHERE run_uuid = ? AND key NOT LIKE 'system/%'"""
    return sorted((*row[:4], bool(row[4])) for row in rows(database, query, run_id))


def sync(*folders):
    """What a user types to send what MLflow lacks."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "sync", *map(str, folders)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


COUNT_STEPS = "SELECT count(*) FROM metrics WHERE key = 'train/loss'"


def wait_until(condition, seconds=120):  # a mirror lets everybody else go first
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except sqlite3.OperationalError:  # the tables are being made
            pass
        time.sleep(0.1)
    raise AssertionError("waited in vain")
