"""A rollout engine that is vLLM, in a process with an interpreter of its own.

vLLM pins another torch than ours, so it lives in an environment of its own. What the trainer sends
goes there through a pipe (`vllm_process.py`), as tensors of a Hugging Face model; what comes back
is the digest of each tensor as vLLM computes with it, and answers.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from cluster.replica import Gone
from models import cost
from models.configs import GPTConfig, ModelConfig
from models.formulas.adapters import merged_config
from models.hf.architectures import NotOurs, to_theirs
from models.hf.tensors import Part, parts
from orchestrator.training import vllm_process
from orchestrator.training.checkpoint import InMemory, read_whole
from orchestrator.training.checkpoint.merging import merged
from orchestrator.training.materialise import on_meta
from orchestrator.training.rollout_engine import (
    PRECISIONS,
    Asked,
    Weights,
    WeightsDiffer,
    Written,
    digest,
)

SCRIPT = Path(vllm_process.__file__)
DTYPES = {name: dtype for dtype, name in PRECISIONS.items()}
MOST_ROWS = 256
"""Answers that vLLM writes at a time; the others wait."""
PASSED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
PASSED_BEGINNINGS = ("CUDA_", "NVIDIA_", "VLLM_", "HF_HOME", "LC_")
FIXED = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model in this very process: nothing is pickled
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several may live on a host
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
STACKED = {"self_attn.q_proj": "self_attn.qkv_proj", "mlp.gate_proj": "mlp.gate_up_proj"}
"""Where vLLM has the rows of several tensors in one, as ours has."""
EMBEDDING = "embedding.weight"


@dataclass(frozen=True)
class VllmSettings:
    """What such an engine is made from; it pickles."""

    python: str
    """The interpreter of the environment that has vLLM."""
    model: GPTConfig
    precision: str
    """Of its weights: fp32 or bf16."""
    longest: int
    """Tokens of a prompt with its answer."""
    rows: int
    """Answers that are asked for at once."""
    device: str
    """cpu or cuda."""

    @property
    def at_once(self) -> int:
        """Answers that are written at a time."""
        return min(self.rows, MOST_ROWS)

    @property
    def cache_bytes(self) -> int:
        """Of keys and values of all of these, and of the block that vLLM keeps empty."""
        block = vllm_process.BLOCK
        tokens = block * (1 + self.at_once * -(-self.longest // block))
        return tokens * (cost.cache_numbers(self.model, 1) or 0) * DTYPES[self.precision].itemsize


class VllmEngine:
    """Starts vLLM, and asks it. It lives in a process of its own, or in that of a debugger."""

    def __init__(self, settings: VllmSettings, index: int) -> None:
        """Make the model, which takes a minute or more; its weights come with `load`.

        Raises:
            RuntimeError: vLLM can't; it says why.
        """
        self.index, self._settings = index, settings
        plain = cast(GPTConfig, merged_config(settings.model))
        described = to_theirs(plain)
        dtype = DTYPES[settings.precision]
        self._tensors = tensors_of(plain, described["model_type"], dtype)
        self._process = started(settings.python, cpu=settings.device == "cpu")
        self._ask(
            {
                "do": "make",
                "config": described,
                "precision": str(dtype).removeprefix("torch."),
                "longest": settings.longest,
                "rows": settings.at_once,
                "cache_bytes": settings.cache_bytes,
            }
        )

    def load(self, weights: Weights) -> None:
        """Take over weights.

        Raises:
            WeightsDiffer: naming the tensor that is not there what it was when it was sent.
            Gone: the process of vLLM is.
        """
        own = merged_weights(weights, self._settings.model, DTYPES[self._settings.precision])
        sent: dict[str, str] = {}

        def payload() -> Iterator[Any]:
            for about in self._tensors:
                tensor = own(about["name"])
                sent[about["name"]] = vllm_process.digest(tensor)
                yield tensor.view(torch.uint8).numpy()

        found = self._ask({"do": "load", "tensors": self._tensors}, payload())["digests"]
        for name, expected in sent.items():
            if found[name] != expected:
                raise WeightsDiffer(
                    f"rollout engine {self.index}: the weights of {name} are not those that were "
                    f"sent: {found[name]} in vLLM, {expected} here"
                )

    def write(self, asked: Asked) -> tuple[Written, float]:
        """Answers to prompts, and the seconds that they took. Raises Gone if vLLM's process is."""
        reply = self._ask({"do": "write", **vars(asked)})
        written = [(list(tokens), list(logprobs)) for tokens, logprobs in reply["written"]]
        return written, reply["seconds"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # of what it was sent and did not read
                pipe.close()

    def _ask(self, message: dict[str, Any], payload: Iterable[Any] = ()) -> dict[str, Any]:
        to, source = cast(BinaryIO, self._process.stdin), self._process.stdout
        try:
            with suppress(BrokenPipeError):  # it may have said why it reads no more
                vllm_process.send(to, message, payload)
            reply = vllm_process.receive(cast(BufferedReader, source))
        except EOFError:
            code = self._process.wait()
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            raise Gone(f"the process of vLLM ended {how}") from None
        if "error" in reply:
            raise RuntimeError(f"vLLM, asked to {message['do']}: {reply['error']}")
        return reply


def tensors_of(config: GPTConfig, kind: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    """What is sent of a plain model: our tensors, with what vLLM calls them and their rows.

    Args:
        config: of ours.
        kind: the model_type of theirs.
        dtype: of the weights.
    """
    shapes = {name: list(p.shape) for name, p in on_meta(config).named_parameters()}

    def described(part: Part) -> dict[str, Any]:
        return {"name": part.name, "rows": part.ours[0], "transposed": part.transposed}

    return [
        {
            "name": name,
            "dtype": str(dtype).removeprefix("torch."),
            "shape": shapes[name],
            "bytes": dtype.itemsize * torch.Size(shapes[name]).numel(),
            "parts": [described(part) for part in own],
            "held": _held(own[0].name),
            "embedding": name == EMBEDDING,
        }
        for name, own in parts(config, kind).items()
    ]


def merged_weights(
    weights: Weights, config: ModelConfig, dtype: torch.dtype
) -> Callable[[str], Tensor]:
    """A function from a name to the tensor of that name, flat, with updates of an adapter in it.

    Raises:
        WeightsDiffer: by the function, for bytes that are not those that were sent.
    """
    shapes = {name: p.shape for name, p in on_meta(config).named_parameters()}

    def arrived(name: str) -> Tensor:
        array = weights.arrays[name]
        if digest(array) != weights.digests[name]:
            raise WeightsDiffer(f"the weights of {name} did not arrive as they were sent")
        return torch.from_numpy(array.copy()).view(dtype).view(shapes[name])

    if not isinstance(config, GPTConfig) or config.adapter is None:
        return lambda name: arrived(name).flatten()
    reader, _ = merged(InMemory({name: arrived(name).float() for name in shapes}), config)
    return lambda name: read_whole(reader, name).to(dtype).flatten()


def _held(theirs: str) -> str:
    for part, whole in STACKED.items():
        theirs = theirs.replace(part, whole)
    return theirs


def started(python: str, *words: str, cpu: bool = False) -> "subprocess.Popen[bytes]":
    """The process of an interpreter, which knows no more of ours than it needs.

    Args:
        python: the interpreter.
        words: what `vllm_process.py` is told.
        cpu: whether it computes on one, where torch would look for a C++ compiler.
    """
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED or name.startswith(PASSED_BEGINNINGS)
    }
    return subprocess.Popen(
        [python, "-I", str(SCRIPT), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=passed | FIXED | ({"TORCHDYNAMO_DISABLE": "1"} if cpu else {}),
    )


@cache
def installed(python: str) -> Mapping[str, Any]:
    """What vLLM an interpreter has.

    Raises:
        ValueError: none, or there is no such interpreter.
    """
    install = "try python -m venv FOLDER && FOLDER/bin/pip install vllm, and name FOLDER/bin/python"
    try:
        with started(python, "--about") as process:
            told, _ = process.communicate()
    except OSError as error:
        raise ValueError(
            f"stage.engine_python={python} can't be started: {error.strerror}; {install}"
        ) from None
    if process.returncode:
        raise ValueError(
            f"stage.engine_python={python} has no vLLM that can be imported (its own words are "
            f"above); {install}"
        )
    found: Mapping[str, Any] = json.loads(told)
    return found


def check_vllm(python: str, config: ModelConfig, device: str) -> None:
    """Look whether vLLM can write with a model.

    Raises:
        ValueError: it can't; says which setting is the reason.
    """
    leave = "leave stage.engine_kind=vllm out"
    if not isinstance(config, GPTConfig):
        raise ValueError(f"model.family={config.family} has no tensors that vLLM knows; {leave}")
    try:
        to_theirs(cast(GPTConfig, merged_config(config)))
    except NotOurs as error:
        raise ValueError(f"vLLM computes nothing like this model: {error}; {leave}") from None
    found = installed(python)
    if found["device"] != device:
        raise ValueError(
            f"stage.engine_python={python} has vLLM {found['version']} for {found['device']}, and "
            f"the job runs on {device}; install the other build there, or {leave}"
        )
    if found["head_sizes"] and config.head_width not in found["head_sizes"]:
        raise ValueError(
            f"vLLM {found['version']} on a CPU has no attention with heads of "
            f"{config.head_width} numbers (model.width / model.heads, or model.head_dim), but of "
            f"{', '.join(map(str, found['head_sizes']))}; {leave}, or train such a model"
        )
