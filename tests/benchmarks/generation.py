"""Greedy generation with a cache against `transformers.generate`, with the same weights, on a CPU.

    python tests/benchmarks/generation.py [--sizes small 10m 124m] [--batch 1 16 64]
        [--dtypes fp32 bf16] [--threads 1] [--prompt 32] [--new 64] [--rounds 3]

The contenders take turns; each round gives a ratio of their times. With one thread it is
processor time, which other programs hardly touch; with more, time on the clock. The floor of a
step is the time to read every weight and cached number once, at the rate at which this processor
reads the same weights in a plain loop of products with one vector; the share is what part of ours
that is. Where a batch is large, arithmetic is the limit, and the share says so by being small.

Needs transformers, of the extra [test].
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch.nn import functional

import models
from models.configs import GPTConfig
from models.decoding import Sampling, generate, stepping
from orchestrator.training.hostmemory import keep_freed_memory
from tests.benchmarks.runs import spread

SIZES = {  # layers, width, heads, vocabulary
    "small": (4, 192, 6, 4096),  # the model of the default run
    "10m": (7, 320, 5, 4096),
    "124m": (12, 768, 12, 50257),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def pair(size, positions, dtype):
    """Our model and the same one of transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    L, D, H, V = SIZES[size]
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=V, max_positions=positions, layers=L, width=D, heads=H)
    config.init_std = 0.1  # with 0.02 untrained logits are so near to each other that many tie
    ours = models.build(config).eval()
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=V, n_positions=positions, n_embd=D, n_layer=L, n_head=H,
            # The same function as its default, as one operation: theirs is faster with it.
            activation_function="gelu_pytorch_tanh",
            eos_token_id=None, bos_token_id=None,
        )
    ).eval()  # fmt: skip
    body = theirs.transformer
    parts = [
        (body.wte, ours.embedding), (body.wpe, ours.position_embedding), (body.ln_f, ours.norm),
    ]  # fmt: skip
    for layer, block in zip(body.h, ours.blocks, strict=True):
        parts += [
            (layer.ln_1, block.attention_norm), (layer.ln_2, block.ffn_norm),
            (layer.attn.c_attn, block.attention.qkv), (layer.attn.c_proj, block.attention.output),
            (layer.mlp.c_fc, block.ffn.up), (layer.mlp.c_proj, block.ffn.down),
        ]  # fmt: skip
    with torch.no_grad():
        for their, our in parts:
            is_conv1d = type(their).__name__ == "Conv1D"  # stored inputs first
            their.weight.copy_(our.weight.T if is_conv1d else our.weight)
            if getattr(our, "bias", None) is not None:
                their.bias.copy_(our.bias)
    return ours.to(dtype), theirs.to(dtype)


def write_ours(model, prompts, new):
    return generate(model, prompts, new, Sampling(temperature=0)).tokens


def write_theirs(model, prompts, new):
    written = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, min_new_tokens=new,
        do_sample=False, use_cache=True, pad_token_id=0,
    )  # fmt: skip
    return written[:, prompts.shape[1] :]


def floor(model, B, prompt, new, clock):
    """Seconds to read each weight, and the cached keys and values, once per step."""
    config = model.config
    weights = [p for p in model.parameters() if p.ndim == 2 and len(p) != config.max_positions]
    vectors = {w.shape[1]: torch.randn(w.shape[1], dtype=w.dtype) for w in weights}
    # bf16 products with a vector are slow in themselves: what is measured is reading, in fp32.
    wide = [w.detach().view(torch.float32) if w.dtype == torch.bfloat16 else w for w in weights]
    vectors = {w.shape[1]: torch.zeros(w.shape[1]) for w in wide}
    best = min(_timed(clock, lambda: [torch.mv(w, vectors[w.shape[1]]) for w in wide], 7))
    size = sum(w.nbytes for w in weights)
    cached = (prompt + new / 2) * 2 * config.layers * config.key_value_heads * config.head_width
    return best * (1 + B * cached * weights[0].element_size() / size), size / best


def _timed(clock, function, times=1):
    seconds = []
    with torch.inference_mode():
        for _ in range(times):
            begun = clock()
            function()
            seconds.append(clock() - begun)
    return seconds


def parts(model, prompts, new, clock):
    """Where a step's time goes: shares of products with weights, attention, choice, the rest."""
    spent = dict.fromkeys(("weights", "attention", "reading the prompt"), 0.0)

    def counted(name, function):
        def timed(*args, **kwargs):
            begun = clock()
            result = function(*args, **kwargs)
            spent[name] += clock() - begun
            return result

        return timed

    projection, attention = stepping._projection, functional.scaled_dot_product_attention
    generating = sys.modules[generate.__module__]
    prefill = generating.prefill
    stepping._projection = lambda *a, **k: counted("weights", projection(*a, **k))
    functional.scaled_dot_product_attention = counted("attention", attention)

    def read(*arguments):
        begun = clock()
        logits = prefill(*arguments)
        spent.update({"weights": 0.0, "attention": 0.0, "reading the prompt": clock() - begun})
        return logits

    generating.prefill = read
    try:
        begun = clock()
        write_ours(model, prompts, new)
        whole = clock() - begun
    finally:
        stepping._projection, generating.prefill = projection, prefill
        functional.scaled_dot_product_attention = attention
    spent["everything else"] = whole - sum(spent.values())
    return ", ".join(f"{name} {100 * seconds / whole:.0f}%" for name, seconds in spent.items())


def compare(size, name, options):
    clock = time.process_time if options.threads == 1 else time.perf_counter
    prompt, new = options.prompt, options.new
    ours, theirs = pair(size, prompt + new, DTYPES[name])
    for B in options.batch:
        prompts = torch.randint(SIZES[size][3], (B, prompt))
        same = write_ours(ours, prompts, 4) == write_theirs(theirs, prompts, 4)
        seconds = {write_ours: [], write_theirs: []}
        for _ in range(options.rounds):
            for write, model in ((write_ours, ours), (write_theirs, theirs)):
                seconds[write] += _timed(clock, partial(write, model, prompts, new))
        mine, other = seconds[write_ours], seconds[write_theirs]
        ratios = [b / a for a, b in zip(mine, other, strict=True)]
        least, rate = floor(ours, B, prompt, new, clock)
        print(
            f"{size} {name}, batch {B}: ours / transformers {spread(ratios)}; "
            f"{B * new / min(mine):,.0f} and {B * new / min(other):,.0f} tokens/s; "
            f"first tokens equal {100 * same.float().mean():.0f}%\n"
            f"    floor {1000 * least:.2f} ms a step at {rate / 1e9:.1f} GB/s, "
            f"{100 * least * new / min(mine):.0f}% of ours; {parts(ours, prompts, new, clock)}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "10m"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    for size in options.sizes:
        for name in options.dtypes:
            compare(size, name, options)


if __name__ == "__main__":
    main()
