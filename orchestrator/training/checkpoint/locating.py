"""From what a user calls weights to a folder: a name on the hub, a GGUF file, a pickle.

What is no folder of safetensors becomes one in the cache, once.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from data.addresses import is_url
from data.files import cache_root, lock, write_text_atomic
from data.messages import Passing, listed
from models.configs import HFConfig
from orchestrator.record.checkpoints.manifest import PARTIAL, CheckpointError
from orchestrator.terminal import say
from orchestrator.training.checkpoint.foreign import CONFIG, foreign_config, open_foreign

ON_HUB = re.compile(r"(?:hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/([\w./-]+\.gguf))?")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
WANTED = ("*.json", "*.safetensors", "tokenizer.model", "merges.txt", "vocab.txt")
"""What is fetched of a repository."""


def located(name: str, *, allow_pickle: bool = False) -> Path | str:
    """The folder, on this machine, of what `model.weights` names; it may be of any kind.

    The URL of a run or checkpoint stays as it is.

    Args:
        name: folder, GGUF file, or OWNER/NAME on the hub, also hf://OWNER/NAME[/FILE.gguf].
        allow_pickle: read pytorch_model.bin where there is nothing better, tensors alone.

    Raises:
        CheckpointError: there is nothing of that name, or it is a pickle.
    """
    if is_url(name) and not name.startswith("hf://"):
        return name
    path = Path(name)
    if not path.exists() and (found := _of_hub(name)) is not None:
        path = found
    if path.is_file() and path.suffix == ".gguf":
        return _converted(path, _from_gguf)
    if (path / CONFIG).is_file() and not list(path.glob("*.safetensors")):
        for pickle in PICKLES:
            if (path / pickle).is_file():
                path = _unpickled(path / pickle, allow_pickle)
    if (path / CONFIG).is_file() and isinstance(config := foreign_config(path), HFConfig):
        return _as_transformers_has_it(path, config)
    return path


def _of_hub(name: str) -> Path | None:
    """What is fetched from the hub; None if it is no name of anything there."""
    asked = ON_HUB.fullmatch(name)
    # A folder of this machine that is not there was meant, if the one that holds it is.
    if asked is None or (not name.startswith("hf://") and Path(name).parent.exists()):
        return None
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, file = asked.groups()
    try:
        if file is not None:
            return Path(hf_hub_download(repository, file))
        return Path(snapshot_download(repository, allow_patterns=list(WANTED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        said = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{name} is no folder here, and the Hugging Face hub gave nothing of that name "
            f"({said}); a private or gated one needs HF_TOKEN"
        ) from None


def _unpickled(pickle: Path, allowed: bool) -> Path:
    if not allowed:
        raise CheckpointError(
            f"{pickle} is a pickle, which can hold code, and there are no safetensors beside it; "
            "add model.allow_pickle=true to read its tensors alone, or take a model with "
            "*.safetensors"
        )
    if pickle.suffix != ".bin":
        raise CheckpointError(f"{pickle}: a pickle in several files is not read; convert it")
    return _converted(pickle, _from_pickle)


def _as_transformers_has_it(folder: Path, config: HFConfig) -> Path:
    """The same folder, or a copy in which tensors are called as the module has them.

    transformers renames and joins tensors of some architectures while it loads them.
    """
    try:
        open_foreign(folder)
        return folder
    except CheckpointError:
        return _converted(folder / CONFIG, partial(_by_transformers, config=config))


def _by_transformers(source: Path, folder: Path, config: HFConfig) -> None:
    import transformers

    from models.hf.wrapped import CLASSES

    kind = getattr(transformers, CLASSES[config.task])
    try:
        model, told = kind.from_pretrained(source.parent, output_loading_info=True)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{source.parent} can't be read by transformers: {said}") from None
    wrong = {*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])}
    if wrong:
        raise CheckpointError(
            f"{source.parent}: missing or of another shape than its {CONFIG} says: "
            f"{listed(sorted(wrong))}"
        )
    _copy_json(source.parent, folder)
    _write(model, folder)


def _write(model: Any, folder: Path) -> None:
    """Write the weights of a module of transformers under its own names, and its config."""
    from safetensors.torch import save_file

    tensors = {name: p.detach().contiguous().float() for name, p in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors")
    plain = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    plain |= {"architectures": [type(model).__name__], "dtype": "float32"}
    write_text_atomic(folder / CONFIG, json.dumps(plain, indent=2, default=str))


def _converted(source: Path, convert: Callable[[Path, Path], None]) -> Path:
    """The folder in the cache that `convert(source, folder)` makes of a file, as it is now."""
    about = source.resolve().stat()
    key = f"{source.resolve()} {about.st_size} {about.st_mtime_ns}"
    title = source.parent.name if source.suffix == ".json" else source.stem
    name = f"{title}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    folder = cache_root() / "models" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_name(f"{name}.lock")):
        if not folder.exists():
            say(Passing(f"converting {source.name} once, to {folder}"), sys.stderr)
            new = folder.with_name(name + PARTIAL)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            convert(source, new)
            new.rename(folder)
    return folder


def _from_gguf(file: Path, folder: Path) -> None:
    try:
        import gguf  # noqa: F401 - transformers asks for it late, and says less
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise CheckpointError(
            f"{file} is a GGUF file, and reading it needs the package {error.name}; "
            "try pip install 'orchestrate[hf]'"
        ) from None
    import torch

    try:
        where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        _write(model, folder)
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    except (ValueError, KeyError, OSError, ImportError, NotImplementedError) as error:
        said = str(error).splitlines()[0]
        raise CheckpointError(f"{file} can't be read by transformers: {said}") from None


def _from_pickle(file: Path, folder: Path) -> None:
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        said = str(error).splitlines()[0]
        raise CheckpointError(f"{file} holds more than tensors, or is damaged: {said}") from None
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise CheckpointError(f"{file} is no table of tensors by their names")
    # Tensors that share memory are one file's worth each.
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "model.safetensors")
    _copy_json(file.parent, folder)


def _copy_json(source: Path, folder: Path) -> None:
    """Copy config and tokenizer, without the index of files that are not there."""
    for file in source.glob("*.json"):
        if not file.name.endswith(".index.json"):
            shutil.copy(file, folder)
