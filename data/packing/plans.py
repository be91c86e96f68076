"""Plans: which segments of which documents stand in which row, made once and kept on the disk.

A plan is a folder:
- `rows.arrow`: an Arrow row per row, a list of segments (first token in the shards, length).
- `documents.arrow`: the first row of each document. Those of its other pieces follow that one.
- `manifest.json`: what it is a plan of, the sha256 of both files, and its fingerprint.
"""

import hashlib
import json
import shutil
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import DamagedData, json_sha256, lock, publish, sha256_file, write_text_atomic
from data.order import Ids
from data.shards import ShardSet

PLAN_VERSION = 1  # a change of the rows that `lay_out` makes must raise it
# Documents that share a row start within so many tokens, one block of uint16, or within so many
# rows where those are more. Four times as many tokens waste 0.13% less of rows of 1,024 tokens
# (0.05% instead of 0.18%), but then the rows of one block lie in 5 blocks of the shards, not in 2.
WINDOW_TOKENS = 1 << 19
WINDOW_ROWS = 64
ROWS, DOCUMENTS, MANIFEST = "rows.arrow", "documents.arrow", "manifest.json"
REMEDY = "delete the folder, and it is planned again"


@dataclass(frozen=True)
class RowPlan:
    """Rows of at most R targets."""

    ends: Ids
    """First segment of each row, and the end of the last row's (rows + 1,)."""
    starts: Ids
    """First token of each segment in the shards (segments,)."""
    lengths: NDArray[np.int32]
    """Tokens of each segment (segments,)."""
    first_rows: Ids
    """Row of the first token of each document (documents,)."""


@dataclass(frozen=True)
class _Manifest:
    """What a folder is a plan of, and what is in it."""

    shards: str  # fingerprint of the shard set
    packing: str
    row_tokens: int
    window_tokens: int
    plan_version: int
    rows: int
    segments: int
    content: str  # sha256 of the numbers, whatever wrote them
    fingerprint: str  # sha256 of all of the above
    files: dict[str, str]  # sha256 of each


def open_plan(shards: ShardSet, packing: str, row_tokens: int, plans: Path) -> tuple[RowPlan, str]:
    """The plan and its fingerprint, made under `plans` if it is not there yet.

    Processes that ask for the same plan at the same time make it once. The numbers stay on the
    disk, mapped, so that the processes of a machine share them.

    Raises:
        DamagedData: the plan on the disk is torn, was changed or is of something else.
    """
    asked: dict[str, Any] = {
        "shards": shards.fingerprint,
        "packing": packing,
        "row_tokens": row_tokens,
        "window_tokens": max(WINDOW_TOKENS, WINDOW_ROWS * row_tokens),
        "plan_version": PLAN_VERSION,
    }
    key = json_sha256(asked)[:32]
    folder = plans / key
    if not folder.exists():
        with lock(plans / f"{key}.lock"):
            if not folder.exists():
                partial = plans / f"{key}.partial"
                shutil.rmtree(partial, ignore_errors=True)  # of a writer that was killed
                _write(
                    partial,
                    lay_out(shards.offsets, packing, row_tokens, asked["window_tokens"]),
                    asked,
                )
                publish(partial, folder)
    return _read(folder, asked)


def lay_out(bounds: Ids, packing: str, row_tokens: int, window_tokens: int) -> RowPlan:
    """Decide which documents stand in which row.

    Rows follow one another as their first segments do in the shards: neighbouring rows read
    neighbouring blocks, and the pieces of a document are in rows that follow one another.

    Args:
        bounds: first token of each document, and the end of the last one, (documents + 1,).
        packing: best_fit or one_document.
        window_tokens: for best_fit; only documents whose starts lie in the same window of so many
            tokens share a row.
    """
    R, lengths = row_tokens, np.diff(bounds)
    pieces = -(-lengths // R)
    firsts = np.cumsum(pieces) - pieces  # first segment of each document
    starts = np.arange(pieces.sum()) - np.repeat(firsts, pieces)
    starts = starts * R + np.repeat(bounds[:-1], pieces)
    sizes = np.minimum(R, np.repeat(bounds[1:], pieces) - starts)
    whole = np.repeat(pieces == 1, pieces)

    hosts = np.arange(len(starts))  # a segment of the row that each segment goes to
    if packing == "best_fit":
        windows = np.flatnonzero(np.diff(bounds[:-1] // window_tokens)) + 1  # documents
        for first, stop in pairwise([0, *firsts[windows].tolist(), len(starts)]):
            own = slice(first, stop)
            hosts[own] = first + _best_fit(sizes[own], whole[own], R)
    # The first segment of a row: the one that must be, or the first in the shards. Of places
    # that are assigned twice numpy keeps the last, which is the first one of the reversed.
    opening = np.empty_like(hosts)
    opening[hosts[::-1]] = np.arange(len(hosts))[::-1]
    opening[~whole] = np.flatnonzero(~whole)
    opening = opening[hosts]
    row = np.cumsum(opening == np.arange(len(opening)))[opening] - 1  # of each segment
    order = np.argsort(2 * row + (opening != np.arange(len(opening))), kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(row))])
    return RowPlan(ends, starts[order], sizes[order].astype(np.int32), row[firsts])


def _best_fit(sizes: Ids, whole: NDArray[np.bool_], R: int) -> Ids:
    """For each segment of a window (n,), a segment whose row it goes to; its own opens a row.

    Best-fit decreasing: from the longest to the shortest, each whole document goes where it leaves
    the least room. The bits of `room` say which amounts of room there are, so the least that is
    enough is found without a search, and the time does not depend on the number of rows.
    """
    hosts = list(range(len(sizes)))
    free: dict[int, list[int]] = defaultdict(list)  # rows with so much room
    room = 0
    for opener in np.flatnonzero(~whole & (sizes < R)).tolist():
        left = R - int(sizes[opener])
        free[left].append(opener)
        room |= 1 << left
    documents = np.flatnonzero(whole)
    documents = documents[np.argsort(-sizes[documents], kind="stable")]
    for document, size in zip(documents.tolist(), sizes[documents].tolist(), strict=True):
        enough = room >> size
        left = size + (enough & -enough).bit_length() - 1 if enough else R
        if enough:
            hosts[document] = free[left].pop()
            if not free[left]:
                room ^= 1 << left
        left -= size
        if left:
            free[left].append(hosts[document])
            room |= 1 << left
    return np.array(hosts, dtype=np.int64)


def _write(folder: Path, plan: RowPlan, asked: dict[str, Any]) -> None:
    import pyarrow as pa

    folder.mkdir(parents=True)
    segments = pa.StructArray.from_arrays([plan.starts, plan.lengths], names=["start", "length"])
    columns = {
        ROWS: ("segments", pa.LargeListArray.from_arrays(plan.ends, segments)),
        DOCUMENTS: ("first_row", pa.array(plan.first_rows)),
    }
    for file, (name, column) in columns.items():
        batch = pa.record_batch([column], names=[name])
        path = str(folder / file)
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
    content = hashlib.sha256()
    for numbers in (plan.ends, plan.starts, plan.lengths, plan.first_rows):
        content.update(numbers.data)
    facts = asked | {
        "rows": len(plan.ends) - 1,
        "segments": len(plan.starts),
        "content": content.hexdigest(),
    }
    files = {file: sha256_file(folder / file) for file in columns}
    manifest = _Manifest(**facts, fingerprint=json_sha256(facts), files=files)
    write_text_atomic(folder / MANIFEST, json.dumps(asdict(manifest), indent=1))


def _read(folder: Path, asked: dict[str, Any]) -> tuple[RowPlan, str]:
    path = folder / MANIFEST
    try:
        manifest = _Manifest(**json.loads(path.read_text(encoding="utf-8")))
        facts = {k: v for k, v in asdict(manifest).items() if k not in ("fingerprint", "files")}
        whole = json_sha256(facts) == manifest.fingerprint and set(manifest.files) == {
            ROWS,
            DOCUMENTS,
        }
    except (OSError, ValueError, TypeError) as error:
        raise DamagedData(
            f"{path} of a packing plan is missing or torn ({error}); {REMEDY}"
        ) from None
    if not whole:
        raise DamagedData(
            f"{path} of a packing plan was changed (its fingerprint differs); {REMEDY}"
        )
    for name, value in asked.items():
        if facts[name] != value:
            raise DamagedData(
                f"{folder} is a packing plan of {name}={facts[name]}, not {value}; {REMEDY}"
            )
    for file, sha256 in manifest.files.items():
        if not (folder / file).is_file() or sha256_file(folder / file) != sha256:
            raise DamagedData(
                f"{folder / file} of a packing plan is missing, torn or not what was written "
                f"(sha256); {REMEDY}"
            )
    rows = _column(folder / ROWS)
    segments = rows.values
    plan = RowPlan(
        ends=rows.offsets.to_numpy(),
        starts=segments.field("start").to_numpy(),
        lengths=segments.field("length").to_numpy(),
        first_rows=_column(folder / DOCUMENTS).to_numpy(),
    )
    return plan, manifest.fingerprint


def _column(path: Path) -> Any:
    """The one column of a file, mapped and not read: published plans never change."""
    import pyarrow as pa

    return pa.ipc.open_stream(pa.memory_map(str(path))).read_next_batch().column(0)
