"""Checkpoints on the disk: what they say of themselves, which are valid, which ones stay.

A checkpoint is a folder whose manifest.json was written last and names size and sha256 of every
other file. Reading and writing its tensors is at home in training/checkpoint; nothing here needs
torch, so the process that starts a job can look for one in milliseconds.

manifest     what a checkpoint says of itself    retention    which ones stay
content      hashes and finite numbers           destination  a folder behind a URL
finding      the newest good one                 copying      to there, behind training
                                                 fetching     from there, to the cache
"""

from orchestrator.record.checkpoints.cached import on_this_host
from orchestrator.record.checkpoints.finding import (
    SELECTION,
    find,
    find_best,
    newest_valid,
    published,
    told,
    verify,
)
from orchestrator.record.checkpoints.manifest import (
    FOLDER,
    MANIFEST,
    TOKENIZER,
    Checkpoint,
    CheckpointError,
    RoleRecord,
    folder_name,
    read,
)
from orchestrator.record.checkpoints.retention import (
    Retention,
    hold,
    remove_partial,
    restore_replaced,
)

__all__ = [
    "FOLDER",
    "MANIFEST",
    "SELECTION",
    "TOKENIZER",
    "Checkpoint",
    "CheckpointError",
    "Retention",
    "RoleRecord",
    "find",
    "find_best",
    "folder_name",
    "hold",
    "newest_valid",
    "on_this_host",
    "published",
    "read",
    "remove_partial",
    "restore_replaced",
    "told",
    "verify",
]
