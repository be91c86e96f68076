"""Checkpoints on the disk: what they say of themselves, which are valid, which ones stay.

A checkpoint is a folder whose manifest.json was written last and names size and sha256 of every
other file. Reading and writing its tensors is at home in training/checkpoint; nothing here needs
torch, so the process that starts a job can look for one in milliseconds.
"""

from orchestrator.record.checkpoints.finding import find, newest_valid, published, verify
from orchestrator.record.checkpoints.manifest import (
    MANIFEST,
    TOKENIZER,
    Checkpoint,
    CheckpointError,
    folder_name,
    read,
)
from orchestrator.record.checkpoints.retention import Retention

__all__ = [
    "MANIFEST",
    "TOKENIZER",
    "Checkpoint",
    "CheckpointError",
    "Retention",
    "find",
    "folder_name",
    "newest_valid",
    "published",
    "read",
    "verify",
]
