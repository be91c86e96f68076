"""Memory that starting a model takes per process, against what `plan` says.

Each process imports torch and DeepSpeed and runs a tiny model, notes its resident memory, builds
the engine, and notes the most it has had meanwhile (VmHWM), and the most in two steps, whose
activations are next to nothing. What the imports take is reported apart.

    python tests/benchmarks/starting.py [--million 110] [--stages 3] [--processes 1 2 4]
    python tests/benchmarks/starting.py --stages 1 --processes 1 --adapters none lora

Every model starts with random weights and with those of a checkpoint. It ends with what `plan` says
of an 8B model, which no small machine can start.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import yaml

from cluster.connection.starting import ONE_HEAP
from models.configs import GPTConfig
from models.cost import largest_layer, parameters
from orchestrator.config import EngineConfig, OptimConfig, RoleConfig
from orchestrator.plan.memory import memory_of
from orchestrator.stages.stage import RoleOutline
from tests.orchestrator.ranks import World

ROOT = Path(__file__).parents[2]
MB = 1e6
MODEL = GPTConfig(
    vocab_size=16_000,
    max_positions=128,
    width=768,
    heads=12,
    norm="rmsnorm",
    positions="rotary",
    activation="swiglu",
    bias=False,
    tied_embedding=False,
)


def resident(key: str) -> float:
    """A figure of /proc/self/status in bytes: VmRSS now, VmHWM at most since `forget`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return float(line.split()[1]) * 1024
    raise KeyError(key)


def forget() -> None:
    """Let VmHWM begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def save(model: GPTConfig, root: Path) -> Path:
    """A checkpoint of the model, on one rank."""
    import torch

    from orchestrator.training import checkpoint, engine

    built = engine.build(model, EngineConfig(name="torch"), None, device=torch.device("cpu"))
    saved = {"model": checkpoint.SavedRole(built.state, model, None)}
    return checkpoint.save(root, 1, saved, None, {}).path


def start(role: RoleConfig, weights: Path | None) -> tuple[float, float, float]:
    """Bytes of a process before, and its growth: most while starting, and in two steps."""
    import torch

    from orchestrator.training import checkpoint, engine
    from orchestrator.training.transfer import transferred

    def build(model: GPTConfig, weights: Path | None = None) -> engine.Engine:
        saved = checkpoint.open_weights(weights, verified=True).reader if weights else None
        reader = None if saved is None else transferred(saved, model, seed=0)
        device = torch.device("cpu")
        return engine.build(model, role.engine, role.optim, device=device, reader=reader)

    def step(trainer: engine.Engine) -> None:
        loss = trainer.forward(torch.arange(64)[None]).float().logsumexp(-1).mean()
        if role.optim is not None:
            trainer.backward(loss)
            trainer.step(1e-3)

    step(build(replace(MODEL, width=24, layers=1)))  # libraries load what they need at first use
    gc.collect()
    before = resident("VmRSS")
    forget()
    trainer = build(role.model, weights)
    peak = resident("VmHWM") - before
    forget()
    for _ in range(2):
        step(trainer)
    return before, peak, resident("VmHWM") - before


def main() -> None:
    """Print a line for each number of processes, ZeRO stage, precision and kind of role."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", type=float, default=110, help="parameters, about")
    parser.add_argument("--stages", type=int, nargs="+", default=[3])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--adapters", nargs="+", default=["none"], help="none, lora, bottleneck")
    options = parser.parse_args()
    os.environ |= ONE_HEAP  # as workers have it
    model = MODEL
    while parameters(model) < options.million * 1e6:
        model = replace(model, layers=model.layers + 1)
    print(f"{parameters(model):,} parameters, {largest_layer(model):,} in the largest layer")
    print("megabytes per process: starting, planned, ratio; in two steps, planned, ratio")
    cases = product(
        options.processes,
        options.stages,
        options.precisions,
        (OptimConfig(), None),
        ("random", "checkpoint"),
        [None if own == "none" else own for own in options.adapters],
    )
    with tempfile.TemporaryDirectory() as scratch:
        alone = World(1)
        saved = alone.run(save, model, Path(scratch))[0]
        alone.stop()
        measure(model, cases, saved)
    big = llama_8b()
    print(f"llama_8b, {parameters(big):,} parameters, ZeRO 3, bf16, AdamW: gigabytes per worker")
    for workers in (8, 16, 64):
        role = RoleConfig(big, EngineConfig(zero_stage=3, precision="bf16"), OptimConfig())
        plan = memory_of(RoleOutline(role, parameters(big), largest_layer(big)), workers)
        most, training = plan.start / 1e9, plan.total / 1e9
        print(f"{workers:3} workers: starting {most:.1f}, training {training:.1f}")


def measure(model: GPTConfig, cases: Iterable[tuple[Any, ...]], saved: Path) -> None:
    """A line for each case: processes, ZeRO stage, precision, optimizer, origin of the weights,
    adapter.
    """
    for ranks, stage, precision, optim, origin, adapter in cases:
        weights = str(saved) if origin == "checkpoint" else None
        if adapter is not None and optim is None:
            continue  # what is not trained has none
        role = RoleConfig(
            replace(model, weights=weights, adapter=adapter),
            EngineConfig(zero_stage=stage, precision=precision),
            optim,
        )
        held = parameters(role.model), largest_layer(role.model)
        plan = memory_of(RoleOutline(role, *held), ranks)
        world = World(ranks)
        try:
            figures = world.run(start, role, saved if origin == "checkpoint" else None)
        finally:
            world.stop()
        trained = plan.total + plan.buffers + plan.step
        before, peak, most = (max(column) / MB for column in zip(*figures, strict=True))
        print(
            f"{ranks} processes, ZeRO {stage}, {precision}, "
            f"{adapter or ('trained' if optim else 'frozen'):10} "
            f"{origin:10} "
            f"{peak:6.0f} {plan.start / MB:6.0f} {peak / (plan.start / MB):5.2f}; "
            f"{most:6.0f} {trained / MB:6.0f} {most / (trained / MB):5.2f}; "
            f"with imports {before:.0f} before",
            flush=True,
        )


def llama_8b() -> GPTConfig:
    """The model of conf/model/llama_8b.yaml with Llama 3's vocabulary."""
    settings = yaml.safe_load((ROOT / "conf" / "model" / "llama_8b.yaml").read_text())
    del settings["defaults"]
    return GPTConfig(**{"vocab_size": 128_256, **settings})


if __name__ == "__main__":
    main()
