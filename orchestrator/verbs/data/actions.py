"""The actions of `orchestrate data` that concern a job; each returns the exit code."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from data.ask import simulate as simulation
from data.ask.documents import Piece, Sighting, pieces_of, sightings_of
from data.feed.ledger import check_prefix
from data.feed.stream import Stream
from data.messages import counted, did_you_mean, size
from data.order.state import DataState
from data.shards import BLOCK_BYTES, CACHE_BLOCKS
from data.shards.blocks import HASH_BYTES, REMEDY
from data.sources.lines import place_of_line
from orchestrator.config import TrainingConfig, nearest_multiples
from orchestrator.terminal import say
from orchestrator.verbs.data.subject import Subject

SHOWN = 70  # characters of a text on a line
STEPS = 100  # that are simulated, if the job has so many


def prepare(subject: Subject, options: argparse.Namespace) -> int:
    """Make the data and say where it stands."""
    prepared = subject.prepare(workers=options.workers)
    for name, dataset in prepared.datasets.items():
        say(f"{name}: {dataset.folder}, fingerprint {dataset.train.fingerprint[:12]}")
        for line in dataset.report.lines():
            say(f"  {line}")
    return 0


def inspect(subject: Subject, options: argparse.Namespace) -> int:
    """Show what is in the data."""
    from orchestrator.verbs.data import inspect as look

    look.inspect(subject.prepared, Console(), options.examples, Path(options.picture))
    return 0


def verify(subject: Subject, options: argparse.Namespace) -> int:
    """Read all of the data and compare its hashes; recount what a run was trained on."""
    problems: list[str] = []
    for name, dataset in subject.prepared.datasets.items():
        for split, shards in (("train", dataset.train), ("validation", dataset.validation)):
            found = shards.problems()
            problems += [
                own.replace(REMEDY, f"delete {dataset.folder} and start again") for own in found
            ]
            stored = sum(entry.size for entry in shards.entries)
            said = counted(len(found), "problem") if found else "all hashes as written"
            say(
                f"{name} {split}: {counted(len(shards.entries), 'shard')}, {stored:,} bytes, {said}"
            )
    if subject.saved is not None:
        state = subject.saved
        lost = check_prefix(subject.stream, state, most_rows=state.cursor)
        problems += [lost] if lost else []
        say(
            f"run: {state.cursor:,} tokens in {state.step // _updates(subject):,} steps, "
            f"{state.skipped.sequences:,} sequences skipped; "
            + ("the account does not hold" if lost else "each exactly as often as planned")
        )
    for problem in problems:
        say(f"problem: {problem}")
    return 1 if problems else 0


def explain(subject: Subject, options: argparse.Namespace) -> int:
    """Show the documents of a step."""
    state, steps = subject.state, subject.config.section(TrainingConfig).steps
    kind, _, number = options.what.rpartition(":")
    if kind not in ("", "sample") or not number.isdigit():
        raise ValueError(f"{options.what} is no step; try 12, or sample:144 for one sequence")
    sample = int(number) if kind else None
    updates = _updates(subject)
    step = int(number) if sample is None else _update_of(state, sample) // updates + 1
    if not 1 <= step <= steps:
        raise ValueError(
            f"{options.what} is not in the job's steps 1..{steps}"
            + ("" if sample is None else f": the sequence would be in step {step}")
        )
    cursor = state.cursor_of_step((step - 1) * updates)
    tokens = state.cursor_of_step(step * updates) - cursor
    length = next(b for b in reversed(state.batches) if b.cursor <= cursor).sequence_length
    first, count = (cursor // length, tokens // length) if sample is None else (sample, 1)
    chosen = range(first, first + count)
    found = pieces_of(subject.stream, subject.prepared.tokenizer, first * length, length, count)
    if options.json:
        rows = zip(chosen, found, strict=True)
        print(json.dumps([{"sample": n, "pieces": [asdict(p) for p in own]} for n, own in rows]))
        return 0
    done = "was" if step * updates <= state.step else "will be"
    say(
        f"step {step} {done} tokens {cursor:,}..{cursor + tokens - 1:,}: "
        f"{counted(tokens // length, 'sequence')} of {counted(length, 'token')}"
    )
    for number, pieces in zip(chosen, found, strict=True):
        say(f"\nsequence {number}: {_origin(pieces)}")
        for piece in pieces:
            say(f"  {_line(piece, whole=sample is not None)}")
    return 0


def _updates(subject: Subject) -> int:
    """Optimizer steps of a step; the account of a run's text counts those, from 0 on."""
    return subject.config.section(TrainingConfig).updates


def _update_of(state: DataState, sample: int) -> int:
    """The optimizer step that has a sequence; sequences are counted from the run's start."""
    starts = ((batch, sample * batch.sequence_length) for batch in reversed(state.batches))
    cursor = next(cursor for batch, cursor in starts if batch.cursor <= cursor)
    return state.step_of_cursor(cursor)


def _origin(pieces: list[Piece]) -> str:
    if not pieces:
        return "padding only"
    first = pieces[0]
    return f"{first.dataset}, epoch {first.epoch}, row {first.row}"


def _line(piece: Piece, *, whole: bool) -> str:
    text = piece.text if whole else " ".join(piece.text.split())
    if not whole and len(text) > SHOWN:
        text = text[:SHOWN] + " ..."
    head = (
        f"targets {piece.start}..{piece.start + piece.tokens - 1}: tokens {piece.offset}.."
        f"{piece.offset + piece.tokens - 1} of document {piece.document} ({piece.place}; "
        f"{piece.shard})"
    )
    return f"{head}\n{text}\n" if whole else f"{head} {text}"


def when(subject: Subject, options: argparse.Namespace) -> int:
    """Show every step that has tokens of a document."""
    stream, state = subject.stream, subject.state
    name, names = options.dataset, ", ".join(stream.names)
    if name is None and len(stream.names) > 1:
        raise ValueError(f"the data is a mixture; add --dataset NAME, one of {names}")
    name = name or stream.names[0]
    if name not in stream.rows:
        raise ValueError(
            f"--dataset={name} is not one of {names}{did_you_mean(name, stream.names)}"
        )
    shards = stream.rows[name].shards
    documents = shards.find(options.document)
    if not documents and (deep := place_of_line(options.document)):
        documents = shards.find(deep)
    if options.document.isdigit() and int(options.document) < shards.documents:
        documents = [int(options.document)]
    if not documents:
        raise ValueError(
            f"{options.document}: no document of the train split of {name} has this number, "
            "source or hash; `orchestrate data inspect` shows some, and documents that are in the "
            "validation split are never trained on"
        )
    updates, steps = _updates(subject), subject.config.section(TrainingConfig).steps
    stop = state.cursor_of_step(steps * updates)
    rows = [
        {
            "document": document,
            "step": state.step_of_cursor(own.cursor) // updates + 1,
            **asdict(own),
        }
        for document in documents
        for own in _sightings(stream, state, name, document, stop)
    ]
    rows.sort(key=lambda row: (row["document"], row["cursor"]))
    if options.json:
        print(json.dumps(rows))
        return 0
    for document in documents:
        start, end = shards.extent(document)
        say(f"document {document} of {name}, {shards.place(document)}, {end - start} tokens")
        mine = [row for row in rows if row["document"] == document]
        for row in mine:
            done = "was" if row["step"] * updates <= state.step else "will be"
            say(
                f"  step {row['step']} ({done}), epoch {row['epoch']}: tokens {row['offset']}.."
                f"{row['offset'] + row['tokens'] - 1}"
            )
        if not mine:
            say(f"  in none of the {steps} steps")
    return 0


def _sightings(
    stream: Stream, state: DataState, name: str, document: int, stop: int
) -> Iterator[Sighting]:
    """Those of each stretch of the run that had sequences of one length."""
    ends = [batch.cursor for batch in state.batches[1:]] + [stop]
    for batch, end in zip(state.batches, ends, strict=True):
        yield from sightings_of(stream, name, document, batch.sequence_length, batch.cursor, end)


def simulate(subject: Subject, options: argparse.Namespace) -> int:
    """Say what reading will cost."""
    config, workers = subject.config, subject.config.workers
    stage, hosts = config.section(TrainingConfig), options.hosts
    steps = options.steps or min(stage.steps, STEPS)
    if hosts < 1 or steps < 1 or options.bandwidth <= 0:
        raise ValueError("--hosts, --steps and --bandwidth must be more than 0")
    if workers % hosts:
        raise ValueError(
            f"--hosts={hosts} must divide resources.workers={workers}; try resources.workers="
            f"{nearest_multiples(workers, hosts).split(', ')[-1]}"
        )
    found = simulation.simulate(
        subject.stream,
        hosts=hosts,
        workers=workers,
        global_batch=stage.rows_of_text * stage.updates,
        micro_batch=config.batch.micro,
        sequence_length=config.data.sequence_length,
        cache_bytes=CACHE_BLOCKS * BLOCK_BYTES,
        steps=steps,
    )
    seconds = found.seconds_per_step(options.bandwidth * 1e6)
    fetched = sum(found.fetched_bytes)
    say(", ".join(counted(*own) for own in ((hosts, "host"), (workers, "worker"), (steps, "step"))))
    say(f"useful   {size(found.useful_bytes)} of tokens")
    say(f"fetched  {size(fetched)} by all hosts, {found.amplification:.2f} x the useful")
    say(
        f"busiest  host: {size(max(found.fetched_bytes))}, {seconds * 1000:,.2f} ms a step at "
        f"{options.bandwidth:g} MB/s"
    )
    say(f"cache    at most {size(found.peak_blocks * HASH_BYTES)} on the fullest host")
    return 0
