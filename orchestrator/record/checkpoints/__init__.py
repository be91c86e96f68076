"""Checkpoints on the disk: what they say of themselves, which are valid, which ones stay.

A checkpoint is a folder whose manifest.json was written last and names size and sha256 of every
other file. Reading and writing its tensors is at home in training/checkpoint; nothing here needs
torch, so the process that starts a job can look for one in milliseconds.
"""

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
    "published",
    "read",
    "remove_partial",
    "restore_replaced",
    "told",
    "verify",
]
