"""What runs under the interpreter of vLLM's own environment: answers asked for through a pipe.

`PYTHON -I vllm_process.py` is started by `vllm_engine.py`. That environment has nothing of ours, so
this file imports the standard library and, where it needs them, torch and vLLM. A message is one
line of JSON, followed by as many bytes as it says; nothing is unpickled and no port is opened.

1. `make`   {"config", "precision", "longest", "rows", "cache_bytes"}: the model, of any weights
2. `load`   {"tensors": [...]} and their bytes, as they come: {"digests"} of what it computes with
3. `write`  {"prompts", "seeds", "most_tokens", "temperature", "end"}: {"written", "seconds"}
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import BufferedReader
from typing import Any, BinaryIO, Protocol, cast

BLOCK = 128
"""Tokens of a block of vLLM's KV cache, on a CPU; elsewhere they are fewer."""
PARENT_GONE = 3
MOST_SEED = 2**63 - 1

Message = dict[str, Any]


class Writer(Protocol):
    """What holds a model and answers."""

    def load(self, tensors: list[Message], arriving: Iterator[Any]) -> dict[str, str]:
        """Take over tensors as they arrive; the digest of each as it is computed with."""
        ...

    def write(self, asked: Message) -> list[tuple[list[int], list[float]]]:
        """New tokens of each answer, and their log-probabilities."""
        ...


def send(to: BinaryIO, message: Message, payload: Iterable[Any] = ()) -> None:
    """Write a message, and bytes behind it."""
    to.write(json.dumps(message).encode() + b"\n")
    for part in payload:
        to.write(part)
    to.flush()


def receive(source: BufferedReader) -> Message:
    """Read a message. Raises EOFError if the other side is gone."""
    line = source.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the other end of the pipe is closed")
    found: Message = json.loads(line)
    return found


def arriving(source: BufferedReader, tensors: list[Message]) -> Iterator[Any]:
    """The tensors behind a message, one after the other: flat, in the dtype that it says."""
    import torch

    for about in tensors:
        bytes_of = bytearray(about["bytes"])
        if source.readinto(bytes_of) != len(bytes_of):
            raise EOFError("the other end of the pipe is closed")
        yield torch.frombuffer(bytes_of, dtype=getattr(torch, about["dtype"]))


def digest(tensor: Any) -> str:
    """Of the numbers of a tensor; -0 counts as 0, as it does in every sum."""
    import torch

    flat = (tensor.detach().flatten() + 0).contiguous().cpu()
    return hashlib.blake2b(flat.view(torch.uint8).numpy(), digest_size=16).hexdigest()


def serve(make: Callable[[Message], Writer], source: BufferedReader, to: BinaryIO) -> None:
    """Answer messages until the other side is gone."""
    writer: Writer | None = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            asked = receive(source)
            try:
                begun = time.perf_counter()
                if asked["do"] == "make":
                    writer = make(asked)
                    reply: Message = {}
                elif asked["do"] == "load":
                    assert writer is not None
                    coming = arriving(source, asked["tensors"])
                    reply = {"digests": writer.load(asked["tensors"], coming)}
                else:
                    assert writer is not None
                    reply = {"written": writer.write(asked)}
                send(to, reply | {"seconds": time.perf_counter() - begun})
            except Exception as error:
                # What is left of a load that failed half way is in the pipe: there is no going on.
                send(to, {"error": f"{type(error).__name__}: {error}"})
                raise


class VLLM:
    """vLLM in this very process, which has no server and no workers besides."""

    def __init__(self, asked: Message) -> None:
        """Make the model, of random weights."""
        from vllm import LLM

        cpu = about()["device"] == "cpu"
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "config.json"), "w") as file:  # noqa: PTH118, PTH123
                json.dump(asked["config"], file)
            self.llm: Any = LLM(
                model=folder,
                dtype=asked["precision"],
                load_format="dummy",
                skip_tokenizer_init=True,
                generation_config="vllm",
                # Log-probabilities at the temperature, as a policy learns from them.
                logprobs_mode="processed_logprobs",
                max_model_len=asked["longest"],
                max_num_seqs=asked["rows"],
                kv_cache_memory_bytes=asked["cache_bytes"] if cpu else None,
                enforce_eager=cpu,
            )

    def load(self, tensors: list[Message], arriving: Iterator[Any]) -> dict[str, str]:
        """Take over the weights in place, forget what was computed with others, and look."""

        def theirs() -> Iterator[tuple[str, Any]]:
            for about, flat in zip(tensors, arriving, strict=True):
                whole = flat.view(about["shape"])
                rows = [part["rows"] for part in about["parts"]]
                for part, own in zip(about["parts"], whole.split(rows), strict=True):
                    yield part["name"], own.t().contiguous() if part["transposed"] else own

        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": theirs()})
        [found] = self.llm.apply_model(lambda model: held(model, tensors))
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM keeps what it has computed with the weights before")
        digests: dict[str, str] = found
        return digests

    def write(self, asked: Message) -> list[tuple[list[int], list[float]]]:
        """Answers to prompts, each from its seed."""
        from vllm import SamplingParams

        how = [
            SamplingParams(
                temperature=asked["temperature"],
                seed=seed & MOST_SEED,
                max_tokens=asked["most_tokens"],
                stop_token_ids=[asked["end"]],
                ignore_eos=True,
                logprobs=0,  # that of the token alone
                detokenize=False,
            )
            for seed in asked["seeds"]
        ]
        prompts = [{"prompt_token_ids": own} for own in asked["prompts"]]
        outputs = self.llm.generate(prompts, how, use_tqdm=False)
        found = []
        for [answer] in (own.outputs for own in outputs):
            tokens = list(answer.token_ids)
            pairs = zip(answer.logprobs, tokens, strict=True)
            found.append((tokens, [float(likely[token].logprob) for likely, token in pairs]))
        return found


def held(model: Any, tensors: list[Message]) -> dict[str, str]:
    """The digest of each tensor as the model computes with it, and of a tied head.

    Once its weights are there, vLLM on a CPU packs them in an order of its own, and of a head that
    is tied to the embedding it packs none anew (its model_executor/model_loader/reload).
    """
    import torch

    found = {}
    with torch.inference_mode():
        tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
        if tied:
            model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
        for about in tensors:
            shape, dtype = about["shape"], getattr(torch, about["dtype"])
            own = _computed_with(model, about["held"], shape, dtype)
            found[about["name"]] = digest(own)
            if tied and about["embedding"]:
                head = _computed_with(model, "lm_head.weight", shape, dtype)
                if digest(head) != found[about["name"]]:
                    found[about["name"]] = "another one in the head that is tied to it"
    return found


def _computed_with(model: Any, name: str, shape: list[int], dtype: Any) -> Any:
    """The numbers of a parameter, without the rows that fill it up."""
    import torch

    place, _, kind = name.rpartition(".")
    module = model.get_submodule(place)
    whole = getattr(module, kind)
    if kind == "weight" and hasattr(module, "cpu_linear") and (
        whole.numel() == 0 or place.endswith("lm_head")
    ):  # fmt: skip
        unit = torch.eye(shape[1], dtype=dtype)  # each sum has one number that is not 0
        whole = module.cpu_linear(unit, whole, None).t()
    return whole[: shape[0]].to(dtype)


def about() -> Message:
    """What is installed here."""
    import vllm
    from vllm.platforms import current_platform

    sizes = None
    if current_platform.is_cpu():
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        sizes = CPUAttentionBackend.get_supported_head_sizes()
    device = current_platform.device_type
    return {"version": vllm.__version__, "device": device, "head_sizes": sizes}


def end_with_parent(parent: int) -> None:
    """End this process when that which has started it is gone, also in the midst of an answer."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(PARENT_GONE)

    threading.Thread(target=look, daemon=True).start()


def own_temporary_folder() -> None:
    """Have temporary files in a folder that goes with this process, however it ends.

    vLLM leaves a file there by which its workers find each other (`vllm_dist_...`, see its
    v1/executor), and whoever is done with an engine kills it with all that it has started. So
    somebody waits for the end who is not of its family.
    """
    folder = tempfile.mkdtemp(prefix="orchestrate-vllm-")
    gone, here = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.dup2(gone, 0)
            os.closerange(1, max(gone, here) + 1)
            os.read(0, 1)  # ends as soon as nobody is left who could write
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)
    os.wait()
    os.close(gone)
    tempfile.tempdir = os.environ["TMPDIR"] = folder


def main(make: Callable[[Message], Writer], about: Callable[[], Message]) -> None:
    """Serve the process that has started this one; what libraries print goes to its stderr."""
    own_temporary_folder()
    end_with_parent(os.getppid())
    to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if sys.argv[1:] == ["--about"]:
        send(to, about())
    else:
        serve(make, cast(BufferedReader, sys.stdin.buffer), to)


if __name__ == "__main__":
    main(VLLM, about)
