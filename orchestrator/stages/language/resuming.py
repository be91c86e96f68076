"""Whether a job can go on from a checkpoint, by its model, tokenizer and account of its data."""

from typing import TYPE_CHECKING

from data import DataError, Prepared
from data.feed.ledger import check_prefix
from data.feed.stream import Stream
from data.order.resuming import changes, resume
from data.order.state import DataState
from orchestrator.config import JobConfig, TrainingConfig, other_architecture
from orchestrator.stages.language.roles import language_role

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

RECOUNTED_ROWS = 1 << 20  # about a second; `orchestrate data verify RUN` recounts any number


def initial_state(config: JobConfig, stream: Stream) -> DataState:
    """The state of the data before the first step of a new job."""
    return DataState.begin(
        stream.mixture,
        stream.fingerprints,
        row_tokens=stream.row_tokens,
        packing=config.data.packing,
        global_batch_size=config.section(TrainingConfig).rows_of_text,
        sequence_length=config.data.sequence_length,
    )


def resumed_state(
    start: "Checkpoint", config: JobConfig, prepared: Prepared, stream: Stream
) -> DataState:
    """The state of the data that the job goes on with; its batches are those of the job.

    Raises:
        ValueError: names each setting that keeps the job from continuing `start`, or says that
            the checkpoint's account of its data does not hold.
    """
    if "data" not in start.facts:
        raise ValueError(
            f"resume={config.resume} is a checkpoint of another stage than "
            f"stage={config.stage.name}, without an account of text; give one that was trained "
            "on text"
        )
    model = language_role(config, prepared.tokenizer.vocab_size).model
    theirs, ours = start.data, initial_state(config, stream)
    wrong = other_architecture(model, start.model_config())
    if start.facts["tokenizer_fingerprint"] != prepared.tokenizer.fingerprint:
        wrong.append(f"the tokenizer must be {start.path / 'tokenizer.json'}")
    wrong += changes(theirs, ours)
    if wrong:
        raise ValueError(
            f"resume={config.resume} was trained with other settings: {'; and '.join(wrong)}; "
            "all of them stand in its run folder's config.yaml"
        )
    if lost := check_prefix(stream, theirs, RECOUNTED_ROWS):
        raise ValueError(f"resume={config.resume}: {lost}; use an older checkpoint")
    try:
        return resume(theirs, ours)
    except DataError as error:
        raise ValueError(f"resume={config.resume}: {error}") from None
