"""Weights alone, in a folder for others, and opening weights wherever a user has them.

An exported folder holds `model.safetensors` (whole tensors in their shapes, fp32), `model.json`
(the config of the model, the checkpoint it came from, size and hash of the files) and the
tokenizer. Anything that reads safetensors can use it.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import models
from data.files import fsync_folder, sha256_file
from data.messages import short, size
from models.configs import ModelConfig
from models.formulas.adapters import merged_config
from orchestrator.record.checkpoints.cached import on_this_host
from orchestrator.record.checkpoints.finding import find_best, newest_of, published
from orchestrator.record.checkpoints.manifest import (
    FOLDER,
    MANIFEST,
    PARTIAL,
    TOKENIZER,
    Checkpoint,
    CheckpointError,
    read,
)
from orchestrator.training.checkpoint.foreign import (
    CONFIG,
    foreign_config,
    identity,
    open_foreign,
)
from orchestrator.training.checkpoint.hugging_face import (
    check_hugging_face,
    write_hugging_face,
)
from orchestrator.training.checkpoint.merging import merged
from orchestrator.training.checkpoint.peft_folder import write_peft
from orchestrator.training.checkpoint.reading import WholeTensors, open_role, read_whole
from orchestrator.training.checkpoint.tensorfile import ITEM, HashedFile, TensorWriter
from orchestrator.training.state import StateReader

MODEL = "model.json"
WEIGHTS = "model.safetensors"
FORMATS = ("orchestrate", "hf", "peft")
FOREIGN_ROLE = "model"  # of weights that no stage of ours made


class Weights(NamedTuple):
    """Weights to start a model from."""

    reader: StateReader
    model_config: ModelConfig | None
    """None: only the stage that made them knows the model."""
    tokenizer: Path | None
    path: Path
    """The checkpoint or exported folder that was found and verified."""
    role: str
    step: int
    """Optimizer steps that made them."""
    manifest_sha256: str
    """Of the checkpoint that they come from: its name in every record."""
    foreign: bool = False
    """Whether they are of Hugging Face, and no step of ours made them."""
    passed_over: tuple[str, ...] = ()
    """Why newer checkpoints of the same run were not taken."""
    differs: tuple[str, ...] = ()
    """What a model takes otherwise than it was saved, once a model is known."""

    def lines(self, role: str) -> list[str]:
        """Where a role gets them from, for a plan."""
        passed_over = [f"passed over: {reason}" for reason in self.passed_over]
        made = "of Hugging Face" if self.foreign else f"step {self.step}"
        return [*passed_over, f"{role} from {short(self.path)}, {made}", *self.differs]


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
    reader, _ = _opened(checkpoint, role)
    if form == "hf":
        check_hugging_face(checkpoint, role)
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
        if form == "hf":
            write_hugging_face(checkpoint, role, partial)
        elif form == "peft":
            write_peft(checkpoint, role, partial)
        else:
            _write_ours(checkpoint, role, partial)
        fsync_folder(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    fsync_folder(folder.parent)
    return folder


def _opened(checkpoint: Checkpoint, role: str | None) -> tuple[StateReader, ModelConfig | None]:
    """A role's weights with what adapters add to them, and its model, if its stage tells it."""
    name, record = checkpoint.role(role)
    config = None if record.model is None else checkpoint.model_config(name)
    return merged(open_role(checkpoint, name), config)


def _write_ours(checkpoint: Checkpoint, role: str | None, folder: Path) -> None:
    name, _ = checkpoint.role(role)
    reader, config = _opened(checkpoint, role)
    with TensorWriter(folder / WEIGHTS, {n: reader.shape(n) for n in reader.names()}) as file:
        for tensor in reader.names():
            file.write_tensor(read_whole(reader, tensor))
    files = {WEIGHTS: file.record.to_dict()}
    if checkpoint.tokenizer is not None:
        with HashedFile(folder / TOKENIZER) as copy:
            copy.write(checkpoint.tokenizer.read_bytes())
        files[TOKENIZER] = copy.record.to_dict()
    source = {
        "checkpoint": str(checkpoint.path.resolve()),
        "manifest_sha256": checkpoint.manifest_sha256,
        "role": name,
        "step": checkpoint.step,
    }
    model = None if config is None else models.config_to_dict(config)
    described = {"model": model, "source": source, "files": files}
    with HashedFile(folder / MODEL) as about:
        about.write(json.dumps(described, indent=1).encode())


def open_weights(
    place: str | Path,
    role: str | None = None,
    *,
    setting: str = "checkpoint",
    verified: bool = False,
) -> Weights:
    """The verified weights in a run folder, checkpoint, exported or Hugging Face folder.

    Args:
        place: where they are, or the URL of a run or checkpoint, of which the weights alone are
            fetched; of a run, the best checkpoint if it keeps that, else the newest.
        role: of a checkpoint; None: the only one. An exported folder holds one role.
        setting: whose value the place is, for messages about a URL.
        verified: whether another process, such as the driver for its ranks, has just verified
            that very checkpoint or folder, so that it need not be read once more for that.

    Raises:
        CheckpointError: nothing valid is there, or not that role.
    """
    path = Path(place)
    if (path / MODEL).is_file():
        return _open_exported(path, role, verified)
    if (path / CONFIG).is_file():
        return _open_foreign(path, role, verified)
    where = on_this_host(path)
    checkpoint = read(where) if verified else find_best(place, setting)
    name, _ = checkpoint.role(role)
    return Weights(
        *_opened(checkpoint, role),
        checkpoint.tokenizer,
        checkpoint.path,
        name,
        checkpoint.step,
        checkpoint.manifest_sha256,
        passed_over=checkpoint.passed_over,
    )


def described(path: Path, role: str | None = None) -> tuple[ModelConfig | None, Path | None]:
    """What model the weights are of, and a tokenizer that stays with them; nothing is verified.

    A checkpoint of a run keeps its tokenizer only as long as the run keeps the checkpoint: None.

    Raises:
        CheckpointError: there are none, or not that role.
    """
    tokenizer = path / TOKENIZER if (path / TOKENIZER).is_file() else None
    if (path / MODEL).is_file():
        return _open_exported(path, role, verified=True).model_config, tokenizer
    if (path / CONFIG).is_file():
        return foreign_config(path), tokenizer
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; `ls outputs` shows the runs there are")
    folders = [path] if (path / MANIFEST).is_file() else published(path / FOLDER)
    found, rejected = newest_of(folders, read)
    if found is None:
        raise CheckpointError(f"{path} holds no checkpoint{'; '.join(['', *rejected])}")
    name, record = found.role(role)
    return (None if record.model is None else merged_config(found.model_config(name))), None


def _open_exported(folder: Path, role: str | None, verified: bool) -> Weights:
    try:
        described: dict[str, Any] = json.loads((folder / MODEL).read_bytes())
        hashes = {name: file["sha256"] for name, file in described["files"].items()}
        plain, source = described["model"], described["source"]
        config = models.config_from_dict(plain) if plain is not None else None
        has, step, manifest_sha256 = source["role"], source["step"], source["manifest_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / MODEL} is damaged ({error}); export it again") from None
    if role not in (None, has):
        raise CheckpointError(f"{folder} has the role {has}, not {role}; name that")
    for name, sha256 in ({} if verified else hashes).items():
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            raise CheckpointError(f"{folder / name} is missing or damaged; export it again")
    return Weights(
        WholeTensors([folder / WEIGHTS]),
        config,
        folder / TOKENIZER if TOKENIZER in hashes else None,
        folder,
        has,
        step,
        manifest_sha256,
    )


def _open_foreign(folder: Path, role: str | None, verified: bool) -> Weights:
    if role not in (None, FOREIGN_ROLE):
        raise CheckpointError(f"{folder} has one model; leave its role {role} out")
    reader, config = open_foreign(folder)
    return Weights(
        reader,
        config,
        folder / TOKENIZER if (folder / TOKENIZER).is_file() else None,
        folder,
        FOREIGN_ROLE,
        0,
        "" if verified else identity(folder),
        foreign=True,
    )
