"""Importing DeepSpeed: quietly, quickly, and without a compiler."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch


def import_deepspeed(device: torch.device) -> Any:
    """The package deepspeed, set up for devices of this kind."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with quiet(), _hidden("mlflow"):  # DeepSpeed's autotuner imports it, which takes a second
        import deepspeed
        from deepspeed.ops import __compatible_ops__

        _import_muon_uncompiled()
    # The shared-memory op serves inference alone, and would be compiled before the first step.
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def forget_process_group() -> None:
    """Have DeepSpeed, where it is imported, forget a torch.distributed group that has ended.

    What it keeps of it would be used in the next group that the same process joins.
    """
    if "deepspeed" in sys.modules:
        from deepspeed.utils import groups

        groups._release_process_group_references()


def compiled_ops() -> list[str]:
    """Names of the DeepSpeed ops that this machine could compile; training needs none of them."""
    import_deepspeed(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    from deepspeed.ops import __compatible_ops__

    return sorted(name for name, compatible in __compatible_ops__.items() if compatible)


def quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """DeepSpeed prints about its ops while it starts; nobody can act on that."""
    return contextlib.redirect_stdout(io.StringIO())


def _import_muon_uncompiled() -> None:
    """ZeRO imports its Muon whatever the optimizer, and decorates it with torch.compile.

    That imports all of inductor, 2 to 3 seconds of the start; ours is in training/optim.
    """
    from deepspeed.runtime import compiler

    decorator = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = decorator


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Import as if this module were not installed, unless it is imported already."""
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]
