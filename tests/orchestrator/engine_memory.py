"""The memory that a rollout engine takes to write, in a process of its own: `python FILE PLAN`.

PLAN is JSON: the settings of a gpt model, precision, rows, tokens of a prompt and of an answer.
What libraries need once, a model of one layer has made them take before.
"""

import ctypes
import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

import models
from models.configs import GPTConfig
from orchestrator.training.rollout_engine import (
    Asked,
    EngineSettings,
    RolloutEngine,
    Weights,
    as_bytes,
    digest,
)


def status(key):
    """A figure of this process in bytes: VmRSS now, VmHWM the most since `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def forget():
    Path("/proc/self/clear_refs").write_text("5")


def weights_of(model, precision):
    """Random ones, as they are sent."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    made = models.build(model)
    arrays = {name: as_bytes(own.to(dtype)) for name, own in made.named_parameters()}
    return Weights(arrays, {name: digest(own) for name, own in arrays.items()})


def write(model, sent, precision, rows, prompt, answer):
    engine = RolloutEngine(EngineSettings(model, precision, "cpu"), 0)
    engine.load(sent)
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, model.vocab_size, (rows, prompt), generator=draw).tolist()
    engine.write(Asked(prompts, list(range(rows)), answer, 1.0, 0))


def main():
    asked = json.loads(sys.argv[1])
    model, precision = GPTConfig(**asked["model"]), asked["precision"]
    sizes = asked["rows"], asked["prompt"], asked["answer"]
    sent = weights_of(model, precision)
    small = replace(model, layers=1)
    write(small, weights_of(small, precision), precision, *sizes)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is not there to be taken again
    before = status("VmRSS")
    forget()
    write(model, sent, precision, *sizes)
    print(json.dumps(status("VmHWM") - before))


if __name__ == "__main__":
    main()
