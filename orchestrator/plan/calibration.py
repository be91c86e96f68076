"""What was measured of this machine, and what its jobs have taught since.

`orchestrate doctor --calibrate` measures small models; from those the seconds of any model follow:

    pass   = a x operations + b x attention's + c x bytes kept + d x logits + e x tensors + f
    update = g x parameters + h x tensors + i

with constants that are not negative and whose relative errors are the smallest (least squares). The
operations are those of the products; the bytes that a pass keeps stand for all that is limited by
memory; tensors for what each call costs however little it does.

A file in the cache, by the name of the machine; it counts where the machine is still the same.
"""

import math
import os
import platform
import re
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from data.files import cache_root, read_json, write_text_atomic
from data.messages import counted, size
from models import cost
from models.configs import ModelConfig, TokenModelConfig
from models.cost import Pass

FOLDER = "calibration"
MOST = 2.0  # by which what was learned may change a prediction, or divide it
KEEPS = 0.5  # of what was learned before, when a run has taught something new


@dataclass(frozen=True)
class Learned:
    """What runs of one kind have taught."""

    step: float
    """Measured / predicted time of a step, between 1 / MOST and MOST."""
    runs: int


@dataclass(frozen=True)
class Calibration:
    """Of one machine."""

    machine: dict[str, Any]
    passes: dict[str, list[float]]
    """Constants a to f by precision, where every core has a rank of one thread."""
    updates: dict[str, list[float]]
    """Constants g to i by precision, likewise."""
    layouts: dict[str, float]
    """Time of a pass by RANKSxTHREADS, over that of the same where every core has a rank."""
    matmul: dict[str, list[list[float]]]
    """By precision: tokens, inputs, outputs, FLOP/s."""
    memory_bytes_per_s: float
    sums: dict[str, float]
    disk_bytes_per_s: float
    process_bytes: float
    """Of a process that has imported all it needs, and taken steps of a small model."""
    libraries: dict[str, float] = field(default_factory=dict)
    """Bytes of a rank's process that no formula tells, by launcher, engine and precision; learned
    from runs."""
    learned: dict[str, Learned] = field(default_factory=dict)
    """By kind of job."""

    def best_flops(self, precision: str) -> float | None:
        """FLOP/s of a rank at best, on the shape that suits it most. None: not measured."""
        rows = self.matmul.get(precision)
        return max(row[3] for row in rows) if rows else None

    def pass_seconds(self, model: ModelConfig, own: Pass, precision: str, layout: str) -> float:
        """Seconds of a micro-batch forward and backward. Raises KeyError if it can't be told."""
        parts = zip(self.passes[precision], pass_features(model, own), strict=True)
        return sum(a * x for a, x in parts) * self.layouts.get(layout, 1.0)

    def update_seconds(self, model: ModelConfig, precision: str) -> float:
        """Seconds of the rest of a step."""
        parts = zip(self.updates[precision], update_features(model), strict=True)
        return sum(a * x for a, x in parts)

    def process(self, started: str) -> float:
        """Bytes of a rank's process that no formula tells, by what started it.

        Where no run has taught that, of ranks that differ in precision alone, else the least.
        """
        alike = started.rpartition(" ")[0]
        near = [most for name, most in self.libraries.items() if name.rpartition(" ")[0] == alike]
        return self.libraries.get(started, max(near, default=self.process_bytes))

    def learn_time(self, kind: str, ratio: float) -> "Calibration":
        """With measured / predicted time of a step of a run of this kind."""
        before = self.learned.get(kind)
        step = min(max(ratio * (before.step if before else 1.0), 1 / MOST), MOST)
        if before is not None:
            step = math.exp(KEEPS * math.log(before.step) + (1 - KEEPS) * math.log(step))
        new = Learned(step, 1 + (before.runs if before else 0))
        return replace(self, learned={**self.learned, kind: new})

    def learn_memory(self, started: str, beyond: float) -> "Calibration":
        """With the bytes that a rank had beyond what formulas tell."""
        if (before := self.libraries.get(started)) is not None:
            beyond = KEEPS * before + (1 - KEEPS) * beyond
        return replace(self, libraries={**self.libraries, started: beyond})

    def lines(self) -> list[str]:
        """What was measured, for a reader."""
        best = ", ".join(
            f"{precision} {max(row[3] for row in rows) / 1e9:.3g} GFLOP/s"
            for precision, rows in self.matmul.items()
        )
        return [
            f"of each rank, where every core has one: {best}, memory "
            f"{size(self.memory_bytes_per_s)}/s, sums over {self.sums['ranks']:.0f} ranks "
            f"{size(self.sums['bytes_per_s'])}/s and {1e3 * self.sums['latency_s']:.2g} ms each, "
            f"disk {size(self.disk_bytes_per_s)}/s",
            *(
                f"{kind}: steps x {own.step:.2f}, learned from {counted(own.runs, 'run')}"
                for kind, own in self.learned.items()
            ),
            *(
                f"a rank of {own}: {size(most)} of libraries"
                for own, most in self.libraries.items()
            ),
        ]

    def save(self) -> Path:
        """Write it into the cache; returns the file."""
        import json

        path = file()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, json.dumps(asdict(self), indent=1))
        return path


def pass_features(model: ModelConfig, own: Pass) -> list[float]:
    """What the time of a micro-batch is made of. Raises KeyError for a model of unknown size."""
    flops, kept = cost.flops(model, own.length), cost.activations(model, own)
    if kept is None:
        raise KeyError(model.family)
    logits = own.tokens * (model.vocab_size or 0) if isinstance(model, TokenModelConfig) else 0
    attention = 3 * flops.attention * own.sequences
    products = flops.training * own.sequences - attention
    tensors = len(cost.tensors(model))
    whole = kept.total(checkpointing=False)
    return [float(products), float(attention), float(whole), float(logits), float(tensors), 1.0]


def update_features(model: ModelConfig) -> list[float]:
    """What the time of the rest of a step is made of."""
    return [float(cost.parameters(model)), float(len(cost.tensors(model))), 1.0]


def fit(rows: list[list[float]], seconds: list[float]) -> list[float]:
    """Constants, none negative, by which rows of features tell seconds best, relatively."""
    import numpy as np
    from scipy.optimize import nnls

    x, y = np.array(rows), np.array(seconds)
    scale = x.max(0)  # operations are 1e10, tensors 50
    weights, _ = nnls(x / scale / y[:, None], np.ones(len(y)))
    return [float(w) for w in weights / scale]


def machine() -> dict[str, Any]:
    """What tells this machine from others, as far as its speed goes."""
    from cluster.nodes import local_cpus

    return {"name": os.uname().nodename, "cpu": cpu_name(), "cores": local_cpus()}


def cpu_name() -> str:
    """The model of the CPU."""
    found = re.search(r"model name\s*: (.+)", _cpu_described())
    return found[1] if found else platform.machine()


def multiplies_bf16() -> bool:
    """Whether the CPU has instructions for bf16, as torch asks for them (models/projection.py)."""
    return "avx512_bf16" in _cpu_described()


@cache
def _cpu_described() -> str:
    """What Linux says of the CPU; nothing on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def file() -> Path:
    """Where the calibration of this machine is."""
    return cache_root() / FOLDER / f"{os.uname().nodename}.json"


def load() -> Calibration | None:
    """That of this machine; None: none was taken, or on another machine of this name."""
    try:
        plain = read_json(file())
        learned = {kind: Learned(**own) for kind, own in plain.pop("learned").items()}
        own = Calibration(**plain, learned=learned)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return own if own.machine == machine() else None
