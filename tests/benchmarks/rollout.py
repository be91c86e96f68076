"""Answers of a policy against `transformers.generate` with the same weights, on a CPU.

    python tests/benchmarks/rollout.py [--size small] [--dtypes bf16 fp32] [--answers 64]
        [--rounds 5] [--threads 1]

Prompts have 10 to 50 tokens; grpo has 8 of them with 8 answers to each, ppo one for each answer.
Answers have 32 tokens each, or lengths that are very unequal (each from 1 to 128, most of them
short), which both contenders are told. Ours also gives the log-probability of each token, as a
rollout needs it. The contenders take turns, and each round gives a ratio of processor time.

Needs transformers, of the extra [test].
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from models.decoding import Row, Sampling, row_seeds, write_rows
from orchestrator.training.hostmemory import keep_freed_memory
from tests.benchmarks.generation import DTYPES, SIZES, pair
from tests.benchmarks.runs import spread

LONGEST = {"equal": 32, "unequal": 128}


class Lengths(StoppingCriteria):
    """Ends each row at its own length."""

    def __init__(self, before, lengths):
        self.before, self.lengths = before, torch.tensor(lengths)

    def __call__(self, input_ids, scores, **named):
        return input_ids.shape[1] - self.before >= self.lengths


def write_theirs(model, prompts, lengths):
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(row)) + row for row in prompts])
    seen = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    model.generate(
        tokens, attention_mask=seen, max_new_tokens=max(lengths), do_sample=True, temperature=1.0,
        top_k=0, top_p=1.0, pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([Lengths(longest, lengths)]),
    )  # fmt: skip


def write_ours(model, prompts, lengths):
    seeds = row_seeds(0, len(prompts))
    rows = [Row(*each) for each in zip(prompts, seeds, lengths, strict=True)]
    write_rows(model, rows, Sampling(temperature=1.0))
    assert [len(row.tokens) for row in rows] == lengths


def answer_lengths(name, answers, rng):
    if name == "equal":
        return [LONGEST[name]] * answers
    return [min(1 + int(rng.expovariate(1 / 20)), LONGEST[name]) for _ in range(answers)]


def compare(options, dtype, copies, name):
    ours, theirs = pair(options.size, 256, DTYPES[dtype])
    rng, V = random.Random(0), SIZES[options.size][3]
    asked = [
        [rng.randrange(V) for _ in range(rng.randint(10, 50))]
        for _ in range(options.answers // copies)
    ]
    prompts = [row for row in asked for _ in range(copies)]
    lengths = answer_lengths(name, len(prompts), rng)
    seconds = {write_ours: [], write_theirs: []}
    for turn in range(options.rounds + 1):  # the first one warms up
        for write, model in ((write_ours, ours), (write_theirs, theirs)):
            begun = time.process_time()
            write(model, prompts, lengths)
            if turn:
                seconds[write].append(time.process_time() - begun)
    ratios = [b / a for a, b in zip(seconds[write_ours], seconds[write_theirs], strict=True)]
    print(
        f"{options.size} {dtype}, {len(asked)} prompts x {copies} answers of {name} lengths, "
        f"{sum(lengths) / len(lengths):.0f} tokens: ours / transformers {spread(ratios)}; "
        f"{sum(lengths) / min(seconds[write_ours]):,.0f} tokens/s",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    for dtype in options.dtypes:
        for copies in (8, 1):
            for name in LONGEST:
                compare(options, dtype, copies, name)


if __name__ == "__main__":
    main()
