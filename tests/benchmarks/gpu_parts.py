"""The measurements of gpu.py: each makes what it needs, and returns numbers.

B batch, T tokens of a row, D model width, H heads, K head width, V vocabulary.
"""

import gc
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.configs import GPTConfig
from models.cost import flops_per_token
from models.decoding import Sampling, generate
from orchestrator.config import EngineConfig, OptimConfig
from orchestrator.training import engine as engines
from orchestrator.training.hardware import device_name, peak_flops

VARIANTS = {  # of training: engine settings, and whether the logits are whole
    "eager": ({}, False),
    "whole-logits": ({}, True),
    "compile": ({"compile": True}, False),
    "compile-whole-logits": ({"compile": True}, True),
    "recompute": ({"activation_checkpointing": True}, False),
    "fp32": ({"precision": "fp32"}, False),
}
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class Part:
    """One part of the report."""

    title: str
    cases: Callable[..., Iterator[dict]]
    """Arguments of each measurement, from the options."""
    measure: Callable[..., dict]
    """Numbers of one, as JSON takes them."""
    line: Callable[[dict], str]
    """They as text."""
    advice: Callable[[list[tuple[dict, dict]]], list[str]] | None = None


def config(options, positions=None) -> GPTConfig:
    return GPTConfig(
        layers=options.layers, width=options.width, heads=options.heads,
        vocab_size=options.vocabulary, max_positions=positions or options.tokens,
    )  # fmt: skip


def trainer(options, device, positions=None, **settings) -> engines.Engine:
    """The engine of `resources=inline engine=torch`."""
    return engines.build(
        config(options, positions),
        EngineConfig(name="torch", **{"precision": "bf16", **settings}),
        OptimConfig(learning_rate=1e-3),
        device=torch.device(device),
    )


def rows(options, B, T, seed=0) -> torch.Tensor:
    """Tokens (B, T + 1) with something to learn: each follows from the one before, mostly."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.randint(options.vocabulary, (B, T + 1), generator=draw)
    for t in range(1, T + 1):
        same = torch.rand(B, generator=draw) < 0.8
        found[:, t] = torch.where(same, (found[:, t - 1] * 7 + 1) % 64, found[:, t] % 64)
    return found


def one_step(engine, batch, *, whole_logits=False) -> torch.Tensor:
    """Forward, backward, clip and update: the mean loss before it, a scalar tensor."""
    inputs, targets = batch[:, :-1], batch[:, 1:].contiguous()
    if whole_logits:
        logits = engine.forward(inputs)  # (B, T, V)
        summed = functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), reduction="sum"
        )
    else:
        mask = torch.ones_like(targets, dtype=torch.bool)
        summed = engine.forward(inputs, targets=targets, loss_mask=mask)
    loss = summed / targets.numel()
    engine.backward(loss)
    engine.step(1e-3)
    return loss.detach()


def wait(device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def peak_bytes(device) -> int:
    """Most memory so far: of the device, or of this process on a CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def emptied(device) -> None:
    """Forget what an earlier measurement in this process has left."""
    gc.collect()
    torch._dynamo.reset()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def timed(function, device, times) -> float:
    """Seconds per call, the device's own work included."""
    function()
    wait(device)
    begun = time.perf_counter()
    for _ in range(times):
        function()
    wait(device)
    return (time.perf_counter() - begun) / times


def parity(options, precision) -> dict:
    """The same weights and rows on the CPU in fp32 and on the device."""
    emptied(options.device)
    T = options.parity_tokens
    on_cpu = trainer(options, "cpu", T, precision="fp32")
    there = trainer(options, options.device, T, precision=precision)
    # Devices draw other numbers from one seed.
    there.model.load_state_dict(on_cpu.model.state_dict())
    losses = []
    for number in range(options.parity_steps):
        batch = rows(options, 2, T, number)
        pair = one_step(on_cpu, batch), one_step(there, batch.to(there.device))
        losses.append([float(loss) for loss in pair])
    apart = max(abs(a - b) / a for a, b in losses)
    return {"apart": apart, "first": losses[0][0], "last": losses[-1], "steps": len(losses)}


def matmul(options) -> dict:
    """What the device reaches on one large product and one large copy."""
    emptied(options.device)
    device, n = torch.device(options.device), options.matmul
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16)
    flops = 2 * n**3 / timed(lambda: a @ b, device, 10)
    copied = 2 * a.nbytes / timed(lambda: a.clone(), device, 10)
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "flops": flops,
        "peak": peak_flops(device, "bf16"),
        "bytes": copied,
    }


def attention(options, kernel) -> dict:
    """Forward and backward pass of causal attention at the model's shape."""
    emptied(options.device)
    B, H, T, K = 8, options.heads, options.tokens, options.width // options.heads
    q, k, v = (
        torch.randn(B, H, T, K, device=options.device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )

    def both():
        functional.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

    if kernel == "default":
        return {"seconds": timed(both, options.device, 10)}
    with sdpa_kernel(KERNELS[kernel]):
        return {"seconds": timed(both, options.device, 10)}


def train(options, variant, micro_batch) -> dict:
    """Optimizer steps of one micro-batch each."""
    emptied(options.device)
    settings, whole_logits = VARIANTS[variant]
    engine = trainer(options, options.device, **settings)
    batch = rows(options, micro_batch, options.tokens).to(engine.device)
    begun = time.perf_counter()
    one_step(engine, batch, whole_logits=whole_logits)
    wait(options.device)
    first = time.perf_counter() - begun
    step = timed(
        lambda: one_step(engine, batch, whole_logits=whole_logits), options.device, options.steps
    )
    rate = micro_batch * options.tokens / step
    peak = peak_flops(engine.device, settings.get("precision", "bf16"))
    flops = flops_per_token(config(options), options.tokens)
    return {
        "tokens_per_second": rate,
        "mfu": None if peak is None else rate * flops / peak,
        "flops": rate * flops,
        "peak_bytes": peak_bytes(options.device),
        "first_step_s": first,
        "loss": float(one_step(engine, batch, whole_logits=whole_logits)),
    }


def generation(options, precision, batch) -> dict:
    """Greedy text by a model with random weights, which take as long as others."""
    emptied(options.device)
    device, new = options.device, options.new
    engine = trainer(options, device, options.prompt + new, precision="fp32")
    model = engine.model.to(torch.bfloat16 if precision == "bf16" else torch.float32).eval()
    prompts = torch.randint(options.vocabulary, (batch, options.prompt), device=device)
    greedy = Sampling(temperature=0)
    short = timed(lambda: generate(model, prompts, 1, greedy), device, 1)
    whole = timed(lambda: generate(model, prompts, new, greedy), device, 1)
    step = (whole - short) / max(new - 1, 1)
    # Every weight once a step, and the keys and values of what was written so far.
    table = model.position_embedding.weight.nbytes
    weights = sum(p.nbytes for p in model.parameters()) - table
    seen = options.prompt + new / 2
    cached = 2 * batch * seen * options.layers * options.width * next(model.parameters()).itemsize
    return {
        "tokens_per_second": batch * new / whole,
        "step_s": step,
        "bytes_per_second": (weights + cached) / step,
        "first_token_s": short,
        "peak_bytes": peak_bytes(device),
    }


def parity_line(r) -> str:
    return (
        f"largest relative difference of {r['steps']} losses {r['apart']:.2g}; "
        f"from {r['first']:.4f} to {r['last'][0]:.4f} (CPU, fp32) and {r['last'][1]:.4f}"
    )


def matmul_line(r) -> str:
    share = "" if r["peak"] is None else f", {r['flops'] / r['peak']:.2f} of the data sheet's"
    return (
        f"{r['device']}, torch {r['torch']}: {r['flops'] / 1e12:.4g} TFLOP/s{share}; copies "
        f"{r['bytes'] / 1e9:,.0f} GB/s"
    )


def train_line(r) -> str:
    mfu = f"{r['flops'] / 1e12:.3g} TFLOP/s" if r["mfu"] is None else f"MFU {r['mfu']:.3f}"
    return (
        f"{r['tokens_per_second']:>10,.0f} tokens/s  {mfu}  peak {r['peak_bytes'] / 1e9:.2f} GB  "
        f"first step {r['first_step_s']:.1f} s  loss {r['loss']:.3f}"
    )


def generation_line(r) -> str:
    return (
        f"{r['tokens_per_second']:>10,.0f} tokens/s  {1000 * r['step_s']:.2f} ms a step, reading "
        f"{r['bytes_per_second'] / 1e9:,.0f} GB/s  first token {1000 * r['first_token_s']:.1f} ms  "
        f"peak {r['peak_bytes'] / 1e9:.2f} GB"
    )


def parity_advice(fine) -> list[str]:
    near = {"fp32": 1e-3, "bf16": 3e-2}
    return [
        f"parity in {case['precision']}: {r['apart']:.2g} is more than {near[case['precision']]}; "
        "find the operation that differs before believing any loss of this device"
        for case, r in fine
        if not r["apart"] <= near[case["precision"]]  # nan too
    ]


def attention_advice(fine) -> list[str]:
    seconds = {case["kernel"]: r["seconds"] for case, r in fine}
    best = min(seconds, key=lambda kernel: seconds[kernel])
    default = seconds.get("default")
    if default is None or seconds[best] > 0.9 * default:
        return []
    return [
        f"attention: {best} takes {seconds[best] / default:.2f} of what torch chooses by itself; "
        "let models/layers.py choose it on this device"
    ]


def train_advice(fine) -> list[str]:
    case, best = max(fine, key=lambda pair: pair[1]["tokens_per_second"])
    settings, _ = VARIANTS[case["variant"]]
    words = ["precision=bf16" if "precision" not in settings else "precision=fp32"]
    words += [f"{name}=true" for name in settings if name != "precision"]
    said = [
        f"train: fastest is {case['variant']} at micro-batch {case['micro_batch']}: "
        f"orchestrate run model=gpt2_124m resources=inline engine=torch "
        f"{' '.join('engine.' + word for word in words)} "
        f"stage.micro_batch_size={case['micro_batch']}"
    ]
    if best["mfu"] is not None and best["mfu"] < 0.4:
        said.append(f"train: MFU {best['mfu']:.3f} is below 0.4: profile a step of this variant")
    by_case = {(c["variant"], c["micro_batch"]): r for c, r in fine}
    for faster, slower, what in (
        ("eager", "whole-logits", "the loss without logits"),
        ("compile", "compile-whole-logits", "the loss without logits, compiled,"),
    ):
        for (variant, micro_batch), r in by_case.items():
            other = by_case.get((slower, micro_batch))
            if variant == faster and other is not None:
                said.append(
                    f"train: {what} at micro-batch {micro_batch} has "
                    f"{r['tokens_per_second'] / other['tokens_per_second']:.2f} of the speed and "
                    f"{r['peak_bytes'] / other['peak_bytes']:.2f} of the memory of whole logits"
                )
    return said


PARTS = {
    "parity": Part(
        "losses on the device against the CPU's, same weights and rows",
        lambda options: ({"precision": p} for p in ("fp32", "bf16")),
        parity,
        parity_line,
        parity_advice,
    ),
    "matmul": Part("what is possible at best", lambda options: iter([{}]), matmul, matmul_line),
    "attention": Part(
        "causal attention in bf16, forward and backward",
        lambda options: ({"kernel": k} for k in ("default", *KERNELS)),
        attention,
        lambda r: f"{1000 * r['seconds']:.3f} ms",
        attention_advice,
    ),
    "train": Part(
        "one optimizer step per micro-batch; MFU counts 6 operations per weight and token",
        lambda options: (
            {"variant": v, "micro_batch": b}
            for v, b in product(options.variants, options.micro_batches)
        ),
        train,
        train_line,
        train_advice,
    ),
    "generate": Part(
        "greedy, with a cache",
        lambda options: (
            {"precision": p, "batch": b} for p, b in product(("bf16", "fp32"), options.batches)
        ),
        generation,
        generation_line,
    ),
}
