"""A role's weights as the folder of a Hugging Face model, which transformers loads by itself."""

import json
from pathlib import Path
from typing import Any

import torch

from data import Tokenizer
from data.files import write_text_atomic
from models.configs import GPTConfig, HFConfig, ModelConfig
from models.hf.architectures import NotOurs, to_theirs
from models.hf.tensors import Part, parts
from models.hf.wrapped import THEIRS
from orchestrator.record.checkpoints.manifest import TOKENIZER, Checkpoint, CheckpointError
from orchestrator.training.checkpoint.foreign import CONFIG
from orchestrator.training.checkpoint.opening import open_merged
from orchestrator.training.checkpoint.reading import read_whole
from orchestrator.training.checkpoint.tensorfile import TensorWriter


def check_hugging_face(checkpoint: Checkpoint, role: str | None) -> None:
    """Raise CheckpointError unless an architecture there computes what the role's model does."""
    _described(open_merged(checkpoint, role)[1])


def write_hugging_face(checkpoint: Checkpoint, role: str | None, folder: Path) -> None:
    """Write config.json, model.safetensors and the files of the tokenizer into a folder."""
    reader, config = open_merged(checkpoint, role)
    plain = _described(config)
    if isinstance(config, GPTConfig):
        made_of = parts(config, plain["model_type"])
    else:
        made_of = {n: (Part(n.removeprefix(THEIRS), reader.shape(n)),) for n in reader.names()}
    shapes = {part.name: part.shape for own in made_of.values() for part in own}
    with TensorWriter(folder / "model.safetensors", shapes, {"format": "pt"}) as file:
        for name, own in made_of.items():
            whole, rows = read_whole(reader, name), [part.ours[0] for part in own]
            for part, tensor in zip(own, torch.split(whole, rows), strict=True):
                file.write_tensor((tensor.T if part.transposed else tensor).contiguous())
    if checkpoint.tokenizer is not None:
        plain |= _write_tokenizer(Tokenizer.load(checkpoint.tokenizer), folder, config)
    _write(folder / CONFIG, plain)


def _described(config: ModelConfig) -> dict[str, Any]:
    """The config.json. Raises CheckpointError if there is none."""
    if isinstance(config, HFConfig):
        return {**config.settings, "vocab_size": config.vocab_size, "dtype": "float32"}
    if not isinstance(config, GPTConfig):
        raise CheckpointError(
            f"a model of the family {config.family} is none of Hugging Face; leave out --format hf"
        )
    try:
        return to_theirs(config)
    except NotOurs as error:
        raise CheckpointError(
            f"no model of Hugging Face computes what this one does: {error}; leave out --format hf"
        ) from None


def _write_tokenizer(tokenizer: Tokenizer, folder: Path, config: ModelConfig) -> dict[str, int]:
    """Write the tokenizer; returns what config.json says of it."""
    plain = json.loads(tokenizer.library_json)
    names = {token["id"]: token["content"] for token in plain["added_tokens"]}
    start, end = tokenizer.start_of_text, tokenizer.end_of_text
    write_text_atomic(folder / TOKENIZER, json.dumps(plain, ensure_ascii=False))
    named = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": getattr(config, "max_positions", None),
        "clean_up_tokenization_spaces": False,
        "bos_token": names[start],
        "eos_token": names[end],
    }
    _write(folder / "tokenizer_config.json", named)
    ids = {"bos_token_id": start, "eos_token_id": end}
    _write(folder / "generation_config.json", ids)
    return ids


def _write(path: Path, plain: dict[str, Any]) -> None:
    write_text_atomic(path, json.dumps(plain, indent=2))
