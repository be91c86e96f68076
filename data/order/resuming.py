"""Whether a job may go on from a stored state of its data, and what it must change first."""

from collections.abc import Mapping
from dataclasses import replace
from math import gcd

from data.files import DataError
from data.order.mixture import MIXTURE_BLOCK, Phase
from data.order.state import DatasetFacts, DataState, length_problem


def resume(stored: DataState, job: DataState) -> DataState:
    """The stored state with the later phases and the batches that a job asks for.

    Args:
        stored: where the run stands.
        job: what `DataState.begin` makes of the job's settings.

    Raises:
        DataError: the job's stream is another one; says all that differs.
    """
    if problems := changes(stored, job):
        raise DataError(f"the run can't go on with this data: {'; and '.join(problems)}")
    asked = job.batches[-1]
    resumed = replace(stored, datasets=job.datasets, phases=job.phases)
    return resumed.with_batch(asked.global_batch_size, asked.sequence_length)


def changes(stored: DataState, job: DataState) -> list[str]:
    """What a job must change to go on from a stored state; empty if nothing.

    The batches are free, and so are the phases from the first mixture block on that no row was
    drawn from yet.
    """
    found = []
    if job.order_version != stored.order_version:
        found.append(
            f"the run was ordered by version {stored.order_version} of the order and this release "
            f"has version {job.order_version}; resume it with the release it began with"
        )
    for setting in ("seed", "packing", "row_tokens"):
        was, now = getattr(stored, setting), getattr(job, setting)
        if was != now:
            found.append(
                f"data.{setting}={now}, but the run began with {was}; set data.{setting}={was}"
            )
    begun = -(-stored.cursor // stored.row_tokens)
    legal = -(-begun // MIXTURE_BLOCK) * MIXTURE_BLOCK
    past = [phase for phase in stored.phases if phase.start < begun]
    found += _phases(past, job.phases, begun, legal)
    # Rows cut otherwise have other fingerprints: one cause, said once.
    same_cut = (stored.packing, stored.row_tokens) == (job.packing, job.row_tokens)
    for name, facts in stored.datasets.items():
        if name in job.datasets:
            found += _dataset(facts, job.datasets[name]) if same_cut else []
        elif any(name in phase.weights for phase in past):
            found.append(
                f"dataset {name} is gone, but the run drew from it; put data.datasets.{name} back "
                f"(to draw no more from it, add a phase without it from start={legal} on)"
            )
    if problem := length_problem(job.batches[-1].sequence_length, stored.row_tokens, stored.cursor):
        found.append(problem)
    return found


def _dataset(was: DatasetFacts, now: DatasetFacts) -> list[str]:
    if was.fingerprint != now.fingerprint:
        return [
            f"dataset {was.name} has other content (or was tokenized otherwise): fingerprint "
            f"{now.fingerprint[:12]}, {now.rows} rows; the run began with {was.fingerprint[:12]}, "
            f"{was.rows} rows; bring that back, or start a run without resume"
        ]
    if was != now:
        return [
            f"dataset {was.name} is cut otherwise: {_shape(now)}; the run began with {_shape(was)}"
        ]
    return []


def _shape(facts: DatasetFacts) -> str:
    return (
        f"{facts.rows} rows, blocks of {facts.block}, {facts.lanes} lanes, "
        f"windows of {facts.window}"
    )


def _phases(past: list[Phase], asked: tuple[Phase, ...], begun: int, legal: int) -> list[str]:
    """Phases that differ where rows were drawn already; the first one says enough."""
    for number, was in enumerate(past):
        if number >= len(asked) or asked[number].start != was.start:
            return [
                f"data.phases: the phase at start={was.start} with {_text(was.weights)} is part of "
                f"the past (the run has drawn {begun} rows); put it back"
            ]
        now = asked[number]
        if _ratios(was.weights) != _ratios(now.weights):
            if new := now.weights.keys() - was.weights.keys() if not number else set():
                name = min(new)
                return [
                    f"data.datasets.{name} is new, so it can't have a weight from the start: set "
                    f"data.datasets.{name}.weight=null, and its weight in a phase of data.phases "
                    f"from start={legal} on"
                ]
            setting = "data.phases: " if number else "data.datasets.NAME.weight: "
            return [
                f"{setting}the weights from row {was.start} on are {_text(now.weights)}, but "
                f"{_text(was.weights)} were drawn from already; put them back, and give the new "
                f"ones in a phase from start={legal} on"
            ]
    return [
        f"data.phases: start={phase.start} is in the past, the run has drawn {begun} rows; the "
        f"first start it may have is {legal}"
        for phase in asked[len(past) :]
        if phase.start < legal and begun
    ]


def _ratios(weights: Mapping[str, int]) -> dict[str, int]:
    """Only the ratios of weights matter; one dataset has the same stream with any weight."""
    common = gcd(*weights.values())
    return {name: weight // common for name, weight in weights.items()}


def _text(weights: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={weight}" for name, weight in sorted(weights.items()))
