"""Throughput of `orchestrate run` with one worker against a bare PyTorch loop, and of tracking.

The loop has the same model, batch, dtype, number of threads and settings of malloc, and nothing
else; with --workers 2 it is torch's DDP of two ranks on gloo, and one worker with two threads runs,
too. All contenders take turns in one session. Prints ratios of medians, with the range over the
rounds.

    python tests/benchmarks/throughput.py [--rounds 3] [--steps 25] [--workers 2]
"""

import argparse
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(__import__("pathlib").Path(__file__).parents[2]))

from cluster.host.network import free_port
from tests.benchmarks.runs import ROOT, run_job, scratch, spread, throughput

SETTINGS = [
    "optim.warmup_steps=1", "stage.sample_tokens=0",
    "stage.evaluate_every=100000", "stage.checkpoint_every=100000",
]  # fmt: skip
BATCH, T, VOCAB = 12, 256, 4096
THREADS = "one worker, two threads"


def bare(precision: str, steps: int, rank: int, ranks: int, port: int) -> float:
    """Median tokens per second of a PyTorch loop over the default model; runs in this process."""
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F

    import models
    from models.configs import GPTConfig
    from orchestrator.training.hostmemory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = default_model()
    assert isinstance(config, GPTConfig)
    model = models.build(config)
    if ranks > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks)
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    rates = []
    for _ in range(steps):
        rows = torch.randint(VOCAB, (BATCH // ranks, T + 1))
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rates.append(BATCH * T / (time.perf_counter() - begun))
    if ranks > 1:
        dist.destroy_process_group()
    return statistics.median(rates[5:])


def bare_in_processes(precision: str, steps: int, ranks: int) -> float:
    """What `bare` says on the first of so many processes, one thread each."""
    command = [sys.executable, __file__, "--bare", precision, "--steps", str(steps)]
    command += ["--workers", str(ranks), "--port", str(free_port())]
    processes = [
        subprocess.Popen([*command, "--rank", str(rank)], cwd=ROOT, stdout=subprocess.PIPE)
        for rank in range(ranks)
    ]
    told = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{' '.join(command)} failed")
    return float(told[0])


def default_model() -> object:
    """The model of the default run, as Hydra composes it."""
    from dataclasses import replace

    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from orchestrator.compose.schema import register

    register()
    with initialize_config_module("conf", version_base="1.3"):
        composed = compose("config", ["resources=cpu1"])
    return replace(OmegaConf.to_object(composed).model, vocab_size=VOCAB)


def main() -> None:
    """Run the contenders in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--bare", choices=["fp32", "bf16"], help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, choices=[1, 2], default=1)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        place = options.rank, options.workers, options.port
        print(bare(options.bare, options.steps, *place))
        return
    contenders: dict[str, list[float]] = {}
    with scratch() as outputs:
        for _ in range(options.rounds):
            for precision in ("fp32", "bf16"):
                alone = bare_in_processes(precision, options.steps, options.workers)
                contenders.setdefault(f"bare {precision}", []).append(alone)
                ways = {"run": [], "run, no tracking": ["tracking=none"]}
                if options.workers == 2:
                    ways[THREADS] = ["resources.workers=1", "resources.cpus_per_worker=2"]
                for name, extra in ways.items():
                    folder = run_job(
                        outputs, *SETTINGS, f"resources=cpu{options.workers}",
                        f"engine.precision={precision}", f"stage.steps={options.steps}", *extra,
                    )  # fmt: skip
                    rate = throughput(folder)
                    contenders.setdefault(f"{name} {precision}", []).append(rate)
    for name, rates in contenders.items():
        print(f"{name:24} {spread(rates)} tokens/s")
    for precision in ("fp32", "bf16"):
        ours, alone = contenders[f"run {precision}"], contenders[f"bare {precision}"]
        untracked = contenders[f"run, no tracking {precision}"]
        ratios = [a / b for a, b in zip(ours, alone, strict=True)]
        tracking = [a / b for a, b in zip(ours, untracked, strict=True)]
        print(f"{precision}: run / bare loop {spread(ratios)}")
        print(f"{precision}: run / run without tracking {spread(tracking)}")
        if threads := contenders.get(f"{THREADS} {precision}"):
            ratios = [a / b for a, b in zip(ours, threads, strict=True)]
            print(f"{precision}: run / {THREADS} {spread(ratios)}")


if __name__ == "__main__":
    main()
