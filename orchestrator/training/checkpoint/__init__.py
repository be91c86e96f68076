"""Checkpoints: written aside, hashed on the way, manifest last, then renamed into place.

`checkpoints/step_00000100/` holds a folder per role. In it each rank has left the slices it held,
flat and in fp32, in `weights-K.safetensors` and `optimizer-K.safetensors`. `manifest.json` says
which file holds which elements of which tensor, the config that rebuilds each model, what the
stage adds (such as its position in the data), and size and sha256 of every file. Nothing depends
on the engine, ZeRO stage or world size that wrote it, and reading needs neither Ray nor DeepSpeed
nor pickle. A folder without a manifest, or with a file that does not match it, is not a checkpoint.

saver       saves behind the training      reading    files of tensors, by ranges
writing     `save`, on every rank          opening    a role, its weights, its model
exporting   weights alone, for others
sharing     verified by all ranks          tensorfile safetensors files, streamed
foreign     folders of Hugging Face        locating   hub, GGUF and pickle -> such a folder
merging     adapted models as plain ones   peft_folder  what adapts them, for peft

The manifest, finding the newest valid one, and which ones stay: record/checkpoints.
"""

from orchestrator.record.checkpoints import (
    MANIFEST,
    TOKENIZER,
    Checkpoint,
    CheckpointError,
    Retention,
    find,
    find_best,
    folder_name,
    hold,
    newest_valid,
    published,
    read,
    told,
    verify,
)
from orchestrator.training.checkpoint.exporting import export, write_weights
from orchestrator.training.checkpoint.locating import located
from orchestrator.training.checkpoint.opening import (
    Beside,
    Weights,
    build_model,
    build_writer,
    described,
    load_model,
    load_writer,
    open_role,
    open_weights,
)
from orchestrator.training.checkpoint.reading import InMemory, read_whole
from orchestrator.training.checkpoint.saver import Published, Saver
from orchestrator.training.checkpoint.sharing import newest_valid_shared, verify_shared
from orchestrator.training.checkpoint.writing import NonFiniteState, SavedRole, SaveFailed, save

__all__ = [
    "MANIFEST",
    "TOKENIZER",
    "Beside",
    "Checkpoint",
    "CheckpointError",
    "InMemory",
    "NonFiniteState",
    "Published",
    "Retention",
    "SaveFailed",
    "SavedRole",
    "Saver",
    "Weights",
    "build_model",
    "build_writer",
    "described",
    "export",
    "find",
    "find_best",
    "folder_name",
    "hold",
    "load_model",
    "load_writer",
    "located",
    "newest_valid",
    "newest_valid_shared",
    "open_role",
    "open_weights",
    "published",
    "read",
    "read_whole",
    "save",
    "told",
    "verify",
    "verify_shared",
    "write_weights",
]
