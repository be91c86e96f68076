"""MLflow as a replay of a run folder; the only place that imports mlflow.

The run folder is the record. A process of the lowest priority, the mirror, sends it to MLflow while
the job runs, so nothing that happens to MLflow can slow or end training:
1. it takes the lock of the run folder, so there is one sender at a time
2. it opens the store; a new SQLite store is made aside, under a file lock, and renamed into place
3. it finds the run by its tag, or creates it
4. it sends what is new in the journal every `flush_seconds`; mlflow.json says how far it got
5. when the driver is done, or dead, it sends the rest, the artifacts and the final status.
Each step can be repeated without doubling anything, so the mirror may be killed anywhere, and
`orchestrate sync RUN_FOLDER` may be typed at any time to send what is missing. Runs that are over
and were not wholly sent are found by the next job, and sent (`leftover.py`).

Of a step that a later attempt repeats, what counts is sent; `points.py` says what becomes of what
was sent before. The journal, which is uploaded too, has everything.
"""

from orchestrator.record.mlflow.leftover import sending_left_over
from orchestrator.record.mlflow.mirror import (
    Done,
    Mirror,
    NoMirror,
    Pending,
    State,
    new_state,
    place,
    start_mirror,
)
from orchestrator.record.mlflow.server import check_store

__all__ = [
    "Done",
    "Mirror",
    "NoMirror",
    "Pending",
    "State",
    "check_store",
    "new_state",
    "place",
    "sending_left_over",
    "start_mirror",
]
