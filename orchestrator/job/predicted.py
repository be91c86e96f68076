"""What was predicted of a run is scored when that is done: here, and on both pages of MLflow."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from data.messages import short
from orchestrator.record.mlflow.mirror import LOG, State, start_sender
from orchestrator.record.predictions import Prediction, predictions
from orchestrator.record.runs import Run

SECONDS = 30.0  # that a prediction may take to be sent; later it is left over, as a run may be
log = logging.getLogger(__name__)


@contextmanager
def scored(folder: Path, say: Callable[[str], None], *, sends: bool) -> Iterator[None]:
    """Score, then let the block send the run, whose page leads on, and send the predictions.

    Nothing that goes wrong here harms the run.

    Args:
        folder: of a run that has ended.
        say: tells the user.
        sends: whether the record goes to MLflow.
    """
    found = list(_scored(folder, say))
    yield
    for own in found:
        state = State.load(own)
        if state is None:
            continue
        replace(state, done=False).save(own)
        process = start_sender(own / LOG, str(own)) if sends else None
        if process is not None:
            try:
                process.communicate(timeout=SECONDS)
            except Exception:
                process.kill()
                process.communicate()


def _scored(folder: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """The folders of the predictions that this run has settled."""
    run = Run(folder)
    for place in predictions(folder.parents[1]):
        try:
            own = Prediction.load(place)
            tokens = run.metrics.get("train/tokens")
            if own.truth or not tokens or not own.is_of(run.parameters or 0, tokens):
                continue
            from orchestrator.scaling.predicting import score

            own = score(place, run)
        except ValueError as error:  # a run of that size, but not the one that was meant
            log.info("%s is not of %s: %s", place, folder, error)
            continue
        except Exception:
            log.exception("%s could not be scored", place)
            continue
        say(f"prediction {own.said}: {short(place)}")
        yield place
