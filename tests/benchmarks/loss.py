"""The loss of a GPT step without whole logits, against whole ones: time and peak memory.

    python tests/benchmarks/loss.py [--rounds N] [--dtype bf16] [--vocabulary 50257]

Each round runs a forward and a backward pass of both kinds, one after the other, and prints what
whole logits take over what the losses take (1 or more: nothing is lost). Memory is the growth of
the resident set over a pass, each kind in a process of its own.
"""

import argparse
import multiprocessing
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import psutil
import torch
import torch.nn.functional as F

import models
from models.configs import GPTConfig
from orchestrator.training.hostmemory import giving_back_freed_memory, keep_freed_memory
from tests.benchmarks.runs import spread

B, T = 8, 256


def build(vocabulary, dtype):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = GPTConfig(layers=2, width=256, heads=4, max_positions=T)
    config.vocab_size = vocabulary
    model = models.build(config).to(dtype)
    tokens, targets = torch.randint(vocabulary, (2, B, T))
    return model, tokens, targets, torch.ones(B, T, dtype=torch.bool)


def whole(model, tokens, targets, mask):
    logits = model(tokens).float().flatten(0, 1)
    losses = F.cross_entropy(logits, targets.flatten(), reduction="none")
    return torch.where(mask.flatten(), losses, 0.0).sum()


def chunked(model, tokens, targets, mask):
    return model(tokens, targets=targets, loss_mask=mask)


def step(loss, model, *batch):
    begun = time.perf_counter()
    (loss(model, *batch) / (B * T)).backward()
    seconds = time.perf_counter() - begun
    model.zero_grad(set_to_none=True)
    return seconds


def peak(loss, vocabulary, dtype, answer):
    """Bytes by which the process grew, at most, in a pass after a first one."""
    with giving_back_freed_memory(0):
        model, *batch = build(vocabulary, dtype)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        process, done, most = psutil.Process(), threading.Event(), 0
        before = process.memory_info().rss

        def watch():
            nonlocal most
            while not done.wait(0.002):
                most = max(most, process.memory_info().rss - before)

        watching = threading.Thread(target=watch)
        watching.start()
        (loss(model, *batch) / (B * T)).backward()
        done.set()
        watching.join()
    answer.put(most)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--vocabulary", type=int, default=50_257)
    options = parser.parse_args()
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    model, *batch = build(options.vocabulary, dtype)
    keep_freed_memory()
    seconds = {whole: [], chunked: []}
    for number in range(options.rounds + 1):
        for loss, measured in seconds.items():
            spent = step(loss, model, *batch)
            if number:
                measured.append(spent)
    ratios = [a / b for a, b in zip(seconds[whole], seconds[chunked], strict=True)]
    print(
        f"{options.dtype}, {B} x {T} tokens, vocabulary {options.vocabulary:,}: whole logits / "
        f"losses in time {spread(ratios)}"
    )
    peaks = {}
    fork = multiprocessing.get_context("spawn")
    for loss in seconds:
        answer = fork.Queue()
        worker = fork.Process(target=peak, args=(loss, options.vocabulary, dtype, answer))
        worker.start()
        peaks[loss] = answer.get()
        worker.join()
    logits = B * T * options.vocabulary * dtype.itemsize
    print(
        f"peak {peaks[whole] / 1e6:,.0f} MB with whole logits, {peaks[chunked] / 1e6:,.0f} MB "
        f"without: {(peaks[whole] - peaks[chunked]) / logits:.1f} times the logits' own "
        f"{logits / 1e6:,.0f} MB less"
    )


if __name__ == "__main__":
    main()
