"""Steps whose batch was bad: kept in the run folder for a look, and left out if that is wanted.

bad_steps/step_00000123.json tells which documents were in the batch, step_00000123.npz holds its
rows. The files are what a run goes by: an attempt that starts after a crash leaves the same steps
out.
"""

import json
from collections.abc import Iterator, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from data import Stream
from data.ask.documents import pieces_of
from data.feed.loader import Batch
from data.files import read_json, write_text_atomic
from data.tokenizer import Tokenizer
from orchestrator.training import distributed
from orchestrator.training.bad_loss import BadLoss

FOLDER = "bad_steps"


def keep(
    folder: Path, bad: BadLoss, stream: Stream, tokenizer: Tokenizer, *, left_out: bool
) -> str:
    """Save the batch of a bad step; returns the path of its description. Every rank calls it.

    Args:
        folder: of the run.
        bad: with this rank's micro-batches.
        stream: that they come from.
        tokenizer: that they were made with.
        left_out: whether the run goes on without the step.
    """
    own = [(b.sample_ids, b.tokens, b.loss_mask) for b in bad.batches if isinstance(b, Batch)]
    every = [part for rank in distributed.gather_objects(own) for part in rank]
    ids, tokens, mask = (np.concatenate(arrays) for arrays in zip(*every, strict=True))
    name = f"{FOLDER}/step_{bad.step:08d}"
    if distributed.rank() == 0:
        (folder / FOLDER).mkdir(exist_ok=True)
        by_id = np.argsort(ids)
        np.savez(
            folder / f"{name}.npz",
            samples=ids[by_id],
            tokens=tokens[by_id],
            loss_mask=mask[by_id],
        )
        described = {
            "step": bad.step,
            "reason": str(bad),
            "left_out": left_out,
            "samples": [_sample(int(i), stream, tokenizer, mask.shape[1]) for i in ids[by_id]],
        }
        write_text_atomic(folder / f"{name}.json", json.dumps(described, indent=1))
    distributed.gather_objects(None)  # the files are there
    return f"{name}.json"


def steps_left_out(folder: Path) -> set[int]:
    """The steps that a run leaves out."""
    described = map(read_json, (folder / FOLDER).glob("step_*.json"))
    return {int(own["step"]) for own in described if own["left_out"]}


def without(
    steps: Set[int], batches: Iterator[list[Batch]], first: int, end_of_text: int
) -> Iterator[list[Batch]]:
    """The batches from step `first` on; those of some steps are end of text without targets.

    The ledger counts their sequences as skipped, as it does those that can't be read.
    """
    for step, micro_batches in enumerate(batches, first):
        if step in steps:
            yield [
                replace(
                    own,
                    tokens=np.full_like(own.tokens, end_of_text),
                    loss_mask=np.zeros_like(own.loss_mask),
                    readable=np.zeros(len(own.sample_ids), dtype=np.bool_),
                )
                for own in micro_batches
            ]
        else:
            yield micro_batches


def _sample(number: int, stream: Stream, tokenizer: Tokenizer, length: int) -> dict[str, Any]:
    (pieces,) = pieces_of(stream, tokenizer, number * length, length)
    return {"sample": number, "pieces": [asdict(piece) for piece in pieces]}
