"""What saving and loading cost, next to the least they could.

    [TMPDIR=...] python tests/benchmarks/saving.py [--megabytes 600] [--rounds 7]

In turns, into one temporary folder: a save by one rank until it is published; what its retention
deletes behind it; a plain write and fsync of the same bytes into as many files; and an asynchronous
save, beside which a forward and backward pass of --pass-seconds is computed. What training stood
still for it, over the time of the save that it waits for, is its stall; passes that are shorter
than the copy wait for it, and the copy alone is told, too. The hashing needs an idle core. Then the
bytes read: by a save; and by verifying and loading on 1, 2 and 4 ranks (one after another), over
the size of the checkpoint.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from orchestrator.record.checkpoints import finding
from orchestrator.training import checkpoint
from tests.benchmarks.runs import scratch, spread
from tests.orchestrator.plain import Plain, bytes_read


def main() -> None:
    """Print medians and ranges."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pass-seconds", type=float, default=0.5)
    options = parser.parse_args()
    width = 2048
    layers = max(1, options.megabytes * 1_000_000 // (12 * width * width))
    model = torch.nn.Sequential(*[torch.nn.Linear(width, width, bias=False) for _ in range(layers)])
    plain = Plain(model=model)
    with scratch() as temporary:
        root = temporary / "checkpoints"
        retention = checkpoint.Retention(root, 2)
        saves, writes, ratios, read, deletions = [], [], [], [], []
        stalls, copies, behind = [], [], []
        saver = checkpoint.Saver(temporary / "asynchronous")
        for step in range(1, options.rounds + 2):
            os.sync()
            before, began = bytes_read(), time.monotonic()
            done = checkpoint.save(root, step, {"model": plain.role()}, None, {})
            retention.after(done)
            saved = time.monotonic() - began
            retention.wait()
            deleted = time.monotonic() - began - saved
            counted = bytes_read() - before
            os.sync()
            written = plain_write(plain, root.parent / "plain")
            os.sync()
            stall, took = asynchronous(saver, step, plain, options.pass_seconds)
            alone, _ = asynchronous(saver, step, plain, 0)
            shutil.rmtree(temporary / "asynchronous")
            if step > 1:  # the first warms up
                stalls.append(stall / saved)
                copies.append(alone / saved)
                behind.append(written / took)
                saves.append(saved)
                writes.append(written)
                ratios.append(saved / written)
                read.append(counted)
                deletions.append(deleted)
        print(f"checkpoint                    {done.bytes / 1e6:.0f} MB")
        print(f"save                          {spread(saves)} s")
        print(f"plain write and fsync         {spread(writes)} s")
        print(f"ratio                         {spread(ratios)}")
        print(f"deleting an old one behind it {spread(deletions)} s")
        print(f"asynchronous: stall / save    {spread(stalls)}")
        print(f"  where there are no passes   {spread(copies)}")
        print(f"  plain write / its writing   {spread(behind)}")
        print(f"bytes read during a save      {spread(read)}, {counter()} of them by the counter")
        for ranks in (1, 2, 4):
            print(
                f"bytes read loading, {ranks} ranks   {loading(done, plain, ranks):.4f} x its size"
            )


def asynchronous(
    saver: checkpoint.Saver, step: int, plain: Plain, pass_seconds: float
) -> tuple[float, float]:
    """Seconds that training stands still for a save, and those until it is published."""
    saver.save(step, {"model": plain.role()}, None, {})
    until, inputs = time.monotonic() + pass_seconds, torch.randn(64, 2048)
    while time.monotonic() < until:
        plain.model(inputs).sum().backward()
    saver.before_update()
    done = saver.wait()
    assert done is not None
    return done.stall_s, done.write_s


def plain_write(plain: Plain, folder: Path) -> float:
    """Seconds to write the same bytes into two files and flush them."""
    folder.mkdir(exist_ok=True)
    slices = list(plain.state())
    files = {"weights": ("weight",), "optimizer": ("exp_avg", "exp_avg_sq")}
    began = time.monotonic()
    for name, keys in files.items():
        with (folder / name).open("wb") as file:
            for own in slices:
                for key in keys:
                    file.write(own.tensors[key].numpy())
            file.flush()
            os.fsync(file.fileno())
    took = time.monotonic() - began
    for name in files:
        (folder / name).unlink()
    return took


def loading(done: checkpoint.Checkpoint, plain: Plain, ranks: int) -> float:
    """Bytes read by all ranks together, over the size of the checkpoint."""
    before = bytes_read()
    for rank in range(ranks):
        finding.check_content(done, rank, ranks)
        reader = checkpoint.open_role(done)
        for own in plain.state(rank, ranks):
            for key in own.tensors:
                reader.read(own.name, key, own.start, own.start + own.length)
    return (bytes_read() - before) / done.bytes


def counter() -> int:
    """Bytes that asking for the count reads."""
    before = bytes_read()
    return bytes_read() - before


if __name__ == "__main__":
    main()
