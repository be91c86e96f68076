"""What one GPU makes of this project, in under 8 minutes, with torch and this project alone.

    python tests/benchmarks/gpu.py                      # everything, on the GPU; a CPU works too
    python tests/benchmarks/gpu.py --parts train --variants eager compile --micro-batches 16

Neither Ray nor DeepSpeed is imported: it measures what `orchestrate run resources=inline
engine=torch` runs, through the same engine. Every measurement is a process of its own, so that it
starts with an empty device, and a failure (out of memory, no compiler, a broken kernel, too slow)
is one line of the report and nothing more. At the end stands what to change.

    parity    losses of 20 steps on the device against the CPU's, fp32 and bf16
    matmul    bf16 FLOP/s of one large product, and bytes/s of a copy: what is possible at best
    attention each kernel of scaled_dot_product_attention, forward and backward
    train     tokens/s, MFU and peak memory of the model, by variant and micro-batch
    generate  tokens/s by batch, and the share of the memory bandwidth
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.gpu_parts import PARTS, VARIANTS

RESULT = "result: "
USUAL_VARIANTS = ["eager", "whole-logits", "compile", "recompute"]  # the others take minutes more
PATIENCE_S = 150  # of one measurement; compiling 124M parameters takes about a minute


def measure(part: str, case: dict, options: argparse.Namespace, left: float) -> dict:
    """One measurement in a process of its own; what went wrong, if it did, under `error`."""
    command = [sys.executable, __file__, "--case", json.dumps([part, case]), *options.typed]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=min(left, PATIENCE_S)
        )
    except subprocess.TimeoutExpired as late:
        return {"error": f"stopped after {late.timeout:.0f} s without a result"}
    found = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if found:
        return json.loads(found[-1].removeprefix(RESULT))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {"error": f"exit code {done.returncode}: {last[:300]}"}


def here(part: str, case: dict, options: argparse.Namespace) -> dict:
    """One measurement in this process."""
    import torch

    try:
        return PARTS[part].measure(options, **case)
    except torch.OutOfMemoryError as error:
        return {"error": f"out of memory: {str(error).splitlines()[0][:200]}"}
    except Exception as error:  # whatever a kernel or compiler says is a finding
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # torch.compile says in its first line which backend failed, and then with what.
        return {"error": f"{type(error).__name__}: {' '.join(lines[:3])[:300]}"}


def report(options: argparse.Namespace) -> None:
    """Measure part by part, and print each as it comes."""
    begun = time.monotonic()
    measured: list[tuple[str, dict, dict]] = []
    for part in options.parts:
        print(f"\n{part}: {PARTS[part].title}", flush=True)
        for case in PARTS[part].cases(options):
            left = options.seconds - (time.monotonic() - begun)
            if left < 10:
                result = {"error": f"left out: the {options.seconds} s are over"}
            elif options.here:
                result = here(part, case, options)
            else:
                result = measure(part, case, options, left)
            measured.append((part, case, result))
            name = " ".join(f"{key} {value}" for key, value in case.items())
            line = result["error"] if "error" in result else PARTS[part].line(result)
            print(f"  {name:28} {line}", flush=True)
    print(f"\nwhat to change ({time.monotonic() - begun:.0f} s)")
    for line in advice(measured):
        print(f"  {line}")


def advice(measured: list[tuple[str, dict, dict]]) -> list[str]:
    """What the figures say about settings and code, one sentence each."""
    by_part: dict[str, list[tuple[dict, dict]]] = {}
    for part, case, result in measured:
        by_part.setdefault(part, []).append((case, result))
    said = [f"{p} {c}: look into: {r['error']}" for p, c, r in measured if "error" in r]
    for part, results in by_part.items():
        fine = [(case, result) for case, result in results if "error" not in result]
        say: Callable[..., list[str]] | None = PARTS[part].advice
        if fine and say is not None:
            said += say(fine)
    return said or ["nothing"]


def parser() -> argparse.ArgumentParser:
    """Sizes are arguments, so that a test can run it all on a small model."""
    new = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    new.add_argument("--device", help="[cuda if there is one, else cpu]")
    new.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    new.add_argument("--variants", nargs="+", choices=VARIANTS, default=USUAL_VARIANTS)
    for name, default in (
        ("layers", 12), ("width", 768), ("heads", 12), ("vocabulary", 50257),
        ("tokens", 1024), ("steps", 10), ("parity-steps", 20), ("parity-tokens", 128),
        ("matmul", 8192), ("prompt", 128), ("new", 128), ("seconds", 460),
    ):  # fmt: skip
        new.add_argument(f"--{name}", type=int, default=default, help="[%(default)s]")
    new.add_argument("--micro-batches", nargs="+", type=int, default=[16, 32])
    new.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    new.add_argument("--here", action="store_true", help="all in this process, for a debugger")
    new.add_argument("--case", help=argparse.SUPPRESS)
    return new


def main(argv: list[str]) -> None:
    """Print the report, or carry out one measurement of it."""
    options = parser().parse_args(argv)
    options.typed = argv
    if options.device is None:
        import torch

        options.device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if options.case:
        part, case = json.loads(options.case)
        print(RESULT + json.dumps(here(part, case, options)))
    else:
        report(options)


if __name__ == "__main__":
    main(sys.argv[1:])
