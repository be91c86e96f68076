"""The text that a policy learns beside its answers: made, put on record, a run's place in it.

It is the stream of the section `data`, as stage=pretrain would take it, in the tokens of the
weights.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import Prepared, Stream
from data.feed.ledger import check_prefix
from data.order.resuming import changes, resume
from data.order.state import DataState
from orchestrator.config import JobConfig
from orchestrator.record.journal import Journal
from orchestrator.stages.examples.resuming import FACTS
from orchestrator.stages.language.preparing import (
    check_records,
    check_repetition,
    make_data,
    text_of_weights,
)
from orchestrator.stages.language.recording import record_data
from orchestrator.stages.language.resuming import RECOUNTED_ROWS, initial_state
from orchestrator.stages.rollouts.section import RolloutConfig
from orchestrator.stages.stage import Ready, Say

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

PTX = "ptx"  # what a checkpoint says of the text


def text_of(config: JobConfig, start: "Checkpoint | None", say: Say) -> Prepared:
    """Make the text; check that there is enough, and that the job can go on from `start` in it."""
    check_records(config)
    stage, prepared = config.section(RolloutConfig), make_data(text_of_weights(config), say)
    stream = Stream.open(prepared.train_sets, config.data)
    last = text_state(config, stream, start).cursor_of_step(stage.steps * stage.updates)
    seen = stream.mixture.repetitions(last // stream.row_tokens)
    check_repetition(config, stage.steps, seen)
    return prepared


def text_state(config: JobConfig, stream: Stream, start: "Checkpoint | None") -> DataState:
    """Where a job goes on in its text; its steps are optimizer steps of the policy.

    Raises:
        ValueError: it is not the text that `start` has learned from.
    """
    begun = initial_state(config, stream)
    stored = None if start is None else saved_text(start)
    if stored is None:
        return begun
    wrong = changes(stored, begun)
    if not wrong and (lost := check_prefix(stream, stored, RECOUNTED_ROWS)):
        wrong = [lost]
    if wrong:
        raise ValueError(
            f"resume={config.resume} has learned from other text: {'; and '.join(wrong)}; all "
            "settings of it stand in its run folder's config.yaml"
        )
    return resume(stored, begun)


def saved_text(start: "Checkpoint") -> DataState | None:
    """Where a run stood in its text. None: it had learned none so far."""
    facts = start.facts.get(FACTS, {})
    return DataState.from_dict(facts[PTX]) if PTX in facts else None


def with_text(ready: Ready, config: JobConfig, text: Prepared) -> Ready:
    """What has been made for a job, and its text."""
    record = partial(_record, first=ready.record, config=text_of_weights(config), text=text)
    return replace(ready, record=record, files=(*ready.files, *text.published().folders()))


def _record(
    journal: Journal, folder: Path, *, first: Any, config: JobConfig, text: Prepared
) -> None:
    first(journal, folder)
    record_data(journal, folder, config, text, {})
