"""Weights alone, in a folder for others.

An exported folder holds `model.safetensors` (whole tensors in their shapes, fp32), `model.json`
(the config of the model, the checkpoint it came from, size and hash of the files) and the
tokenizer. Anything that reads safetensors can use it.
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import models
from data.files import fsync_folder
from data.messages import size
from orchestrator.record.checkpoints.manifest import (
    PARTIAL,
    TOKENIZER,
    Checkpoint,
    CheckpointError,
)
from orchestrator.training.checkpoint.hugging_face import (
    check_hugging_face,
    write_hugging_face,
)
from orchestrator.training.checkpoint.opening import MODEL, WEIGHTS, Weights, opened
from orchestrator.training.checkpoint.peft_folder import write_peft
from orchestrator.training.checkpoint.reading import read_whole
from orchestrator.training.checkpoint.tensorfile import ITEM, HashedFile, TensorWriter
from orchestrator.training.state import StateReader

FORMATS = ("orchestrate", "hf", "peft")


def export(
    checkpoint: Checkpoint, folder: Path, role: str | None = None, form: str = FORMATS[0]
) -> Path:
    """Write the weights of a role as whole tensors into a new folder, which is returned.

    Args:
        checkpoint: where they are.
        folder: to be made.
        role: whose weights. None: the only one.
        form: one of FORMATS; hf is what Hugging Face transformers reads, with updates of an
            adapter in the weights; peft is those updates alone, for the package of that name.

    Raises:
        CheckpointError: the folder exists, the disk is too small, there is no such role, or no
            architecture of the form for its model.
        OSError: the disk took less than it promised; nothing is left.
    """
    reader, config = opened(checkpoint, role)
    if form == "hf":
        check_hugging_face(checkpoint, role)
    with _new_folder(folder, reader) as partial:
        if form == "hf":
            write_hugging_face(checkpoint, role, partial)
        elif form == "peft":
            write_peft(checkpoint, role, partial)
        else:
            name, _ = checkpoint.role(role)
            of = checkpoint.path, name, checkpoint.step, checkpoint.manifest_sha256
            _write_ours(Weights(reader, config, checkpoint.tokenizer, *of), partial)
    return folder


def write_weights(found: Weights, folder: Path) -> Path:
    """Write weights as `export` does in its first form, wherever they come from."""
    with _new_folder(folder, found.reader) as partial:
        _write_ours(found.named(), partial)
    return folder


@contextmanager
def _new_folder(folder: Path, reader: StateReader) -> Iterator[Path]:
    """A folder to fill, which gets its name when that is done and goes if it fails."""
    if folder.exists():
        raise CheckpointError(f"{folder} exists already; name a new folder, or remove this one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(ITEM * math.prod(reader.shape(tensor)) for tensor in reader.names())
    if (free := shutil.disk_usage(folder.parent).free) < needed:
        raise CheckpointError(
            f"{folder} needs {size(needed)}, {size(free)} are free there; "
            "free some space, or name a folder on another disk"
        )
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        fsync_folder(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    fsync_folder(folder.parent)


def _write_ours(found: Weights, folder: Path) -> None:
    reader, config = found.reader, found.model_config
    with TensorWriter(folder / WEIGHTS, {n: reader.shape(n) for n in reader.names()}) as file:
        for tensor in reader.names():
            file.write_tensor(read_whole(reader, tensor))
    files = {WEIGHTS: file.record.to_dict()}
    if found.tokenizer is not None:
        with HashedFile(folder / TOKENIZER) as copy:
            copy.write(found.tokenizer.read_bytes())
        files[TOKENIZER] = copy.record.to_dict()
    source = {
        "checkpoint": str(found.path.resolve()),
        "manifest_sha256": found.manifest_sha256,
        "role": found.role,
        "step": found.step,
    }
    model = None if config is None else models.config_to_dict(config)
    described = {"model": model, "source": source, "files": files}
    with HashedFile(folder / MODEL) as about:
        about.write(json.dumps(described, indent=1).encode())
