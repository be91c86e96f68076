"""The low-rank updates of a role as the folder of an adapter, which the package peft loads."""

import json
from pathlib import Path

from data.files import write_text_atomic
from models.configs import GPTConfig, HFConfig
from models.formulas.adapters import MARK, merged_config, updated
from models.hf.architectures import NotOurs, to_theirs
from models.hf.tensors import parts
from models.hf.wrapped import THEIRS
from orchestrator.record.checkpoints.manifest import WEIGHT, Checkpoint, CheckpointError
from orchestrator.training.checkpoint.opening import open_role
from orchestrator.training.checkpoint.reading import read_whole
from orchestrator.training.checkpoint.tensorfile import TensorWriter


def write_peft(checkpoint: Checkpoint, role: str | None, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors into a folder.

    They go onto the model that `--format hf` of the weights before makes.

    Raises:
        CheckpointError: the role has no such updates, or peft has no place for them.
    """
    config, reader = checkpoint.model_config(role), open_role(checkpoint, role)
    if not isinstance(config, GPTConfig | HFConfig) or config.adapter != "lora":
        raise CheckpointError(
            f"model.adapter={getattr(config, 'adapter', None) or 'null'} has no low-rank updates "
            "to write for peft; leave out --format peft"
        )
    if isinstance(config, GPTConfig):
        tensors = _names(config)
    else:
        tensors = {name: _of_theirs(name) for name in reader.names() if MARK in name}
    shapes = {theirs: reader.shape(ours) for ours, theirs in tensors.items()}
    file = folder / "adapter_model.safetensors"
    with TensorWriter(file, shapes, {"format": "pt"}) as out:
        for ours in tensors:
            out.write_tensor(read_whole(reader, ours))
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.adapter_rank,
        "lora_alpha": config.adapter_alpha,
        "lora_dropout": config.adapter_dropout,
        "target_modules": sorted({name.split(".")[-3] for name in tensors.values()}),
        "bias": "none",
        "fan_in_fan_out": False,
        "base_model_name_or_path": None,
        "inference_mode": True,
    }
    write_text_atomic(folder / "adapter_config.json", json.dumps(about, indent=2))


def _names(config: GPTConfig) -> dict[str, str]:
    """Of each matrix of an update of ours, its name in a file of peft."""
    plain = merged_config(config)
    assert isinstance(plain, GPTConfig)
    try:
        made_of = parts(plain, to_theirs(plain)["model_type"])
    except NotOurs as error:
        raise CheckpointError(
            f"peft has no model that computes what this one does: {error}; leave out --format peft"
        ) from None
    found = {}
    for layer in range(config.layers):
        for projection, own in updated(config).items():
            ours = f"blocks.{layer}.{projection}"
            stop, places = 0, {}
            for part in made_of[f"{ours}.{WEIGHT}"]:
                start, stop = stop, stop + part.ours[0]
                places[start, stop] = part.name.removesuffix(f".{WEIGHT}")
            for target, rows in own.items():
                if rows not in places:
                    raise CheckpointError(
                        f"{target} is a part of {projection} in GPT-2, and peft updates the whole "
                        "of that; leave out --format peft, which merges the updates"
                    )
                for matrix in ("a", "b"):
                    theirs = f"base_model.model.{places[rows]}.lora_{matrix.upper()}.{WEIGHT}"
                    found[f"{ours}.lora.{target}.{matrix}"] = theirs
    return found


def _of_theirs(name: str) -> str:
    """The name there of a matrix of an update of a module of transformers."""
    module, _, matrix = name.removeprefix(THEIRS).partition(MARK)
    return f"base_model.model.{module}.lora_{matrix.upper()}.{WEIGHT}"
