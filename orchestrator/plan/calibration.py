"""What was measured of this machine.

`orchestrate doctor --calibrate` measures small models; from those the seconds of any model follow:

    pass   = a x operations + b x written-out scores + c x kernel's operations + d x its scores
             + e x other bytes kept + f x logits + g x tensors + h
    update = i x parameters + j x tensors + k
    token  = l x operations + m x bytes of weights + n x bytes of keys and values + o x logits
             + p x tensors + q

with constants that are not negative and whose relative errors are the smallest (least squares). The
operations are those of the products; scores are numbers that attention takes through a softmax,
written out or in torch's kernel (models/layers.py); the bytes that a pass keeps stand for all that
is limited by memory; tensors for what each call costs however little it does. What products and
caches do to models of some shape, and no such sum can tell, shows in the errors: a model like one
that was measured is told longer or shorter by as much as that one was (kriging: Rasmussen and
Williams 2006, equation 2.25).

A file in the cache, by the name of the machine; it counts where the machine is still the same.
"""

import math
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from data.files import cache_root, read_json, write_text_atomic
from data.messages import size
from models import cost
from models.configs import GPTConfig, ModelConfig, TokenModelConfig
from models.cost import Pass

FOLDER = "calibration"
REACH = 1.5
"""Distance, in natural logarithms of sizes, over which models resemble each other; and NOISE, how
much of a model's error is its own. With these, one of 20 models was told from the others within
4.3% in the median, and without within 6.5%."""
NOISE = 0.1


@dataclass(frozen=True)
class Calibration:
    """Of one machine."""

    machine: dict[str, Any]
    passes: dict[str, list[float]]
    """Constants a to h by precision, where every core has a rank of one thread."""
    updates: dict[str, list[float]]
    """Constants i to k by precision, likewise."""
    layouts: dict[str, float]
    """Time of a pass by RANKSxTHREADS, over that of the same where every core has a rank."""
    matmul: dict[str, list[list[float]]]
    """By precision: tokens, inputs, outputs, FLOP/s."""
    memory_bytes_per_s: float
    sums: dict[str, float]
    disk_bytes_per_s: float
    process_bytes: float
    """Of a process that has imported all it needs, and taken steps of a small model."""
    residuals: dict[str, list[list[float]]] = field(default_factory=dict)
    """By precision, of each model that was measured where it lies (`place`), and its weight."""
    writes: dict[str, list[float]] = field(default_factory=dict)
    """Constants l to q by precision, as of passes."""

    def best_flops(self, precision: str) -> float | None:
        """FLOP/s of a rank at best, on the shape that suits it most. None: not measured."""
        rows = self.matmul.get(precision)
        return max(row[3] for row in rows) if rows else None

    def pass_seconds(self, model: ModelConfig, own: Pass, precision: str, layout: str) -> float:
        """Seconds of a micro-batch forward and backward. Raises KeyError if it can't be told."""
        parts = zip(self.passes[precision], pass_features(model, own), strict=True)
        told = sum(a * x for a, x in parts) * self.layouts.get(layout, 1.0)
        return told * math.exp(residual(self.residuals.get(precision, []), place(model, own)))

    def update_seconds(self, model: ModelConfig, precision: str) -> float:
        """Seconds of the rest of a step."""
        parts = zip(self.updates[precision], update_features(model), strict=True)
        return sum(a * x for a, x in parts)

    def write_seconds(
        self, model: ModelConfig, rows: int, length: float, precision: str, layout: str
    ) -> float:
        """Seconds of one more token of each of so many texts, on the average over those that a text
        of this length ends with. Raises KeyError if it can't be told.
        """
        if precision not in self.writes:
            raise KeyError("writing, which doctor --calibrate has not measured")
        parts = zip(
            self.writes[precision], write_features(model, rows, length, precision), strict=True
        )
        return sum(a * x for a, x in parts) * self.layouts.get(layout, 1.0)

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
    each = own.sequences * own.length**2 * getattr(model, "heads", 0)
    scores = each * getattr(model, "layers", 0) * (flops.attention > 0)
    whole = kept.total(checkpointing=False)
    if own.written_out:
        mixed = [scores, 0, 0, max(0, whole - (4 + own.number) * scores)]
        products += attention
    else:
        mixed = [0, attention, scores, whole]
    found = [products, *mixed, logits, len(cost.tensors(model)), 1]
    return [float(number) for number in found]


def place(model: ModelConfig, own: Pass) -> list[float] | None:
    """Where a micro-batch of a model lies among others: models that are near take alike long.

    None: it is not of the family that is measured.
    """
    if not isinstance(model, GPTConfig):
        return None
    sizes = (own.tokens, own.length, model.width, model.layers, model.head_width)
    logs = [math.log(size) for size in (*sizes, model.vocab_size or 1)]
    return [*logs, float(model.activation == "swiglu"), 1.5 * own.written_out]


def fit_residuals(places: Sequence[list[float]], logs: Sequence[float]) -> list[list[float]]:
    """What `Calibration.residuals` holds, from log(measured / told) of models at these places."""
    import numpy as np

    near = np.array([[_near(one, other) for other in places] for one in places])
    weights = np.linalg.solve(near + NOISE * np.eye(len(places)), np.array(logs))
    return [[*one, float(weight)] for one, weight in zip(places, weights, strict=True)]


def residual(known: list[list[float]], at: list[float] | None) -> float:
    """Log of measured / told, as models nearby have it; 0 far from all."""
    if at is None:
        return 0.0
    return sum(weight * _near(own, at) for *own, weight in known)


def _near(one: Sequence[float], other: Sequence[float]) -> float:
    """1 for models of one place, less for others: a Gaussian of their distance."""
    squares = sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
    return math.exp(-squares / (2 * REACH**2))


def update_features(model: ModelConfig) -> list[float]:
    """What the time of the rest of a step is made of."""
    return [float(cost.parameters(model)), float(len(cost.tensors(model))), 1.0]


def write_features(model: ModelConfig, rows: int, length: float, precision: str) -> list[float]:
    """What the time of a token of each of so many texts of this length is made of."""
    number, T = (2 if precision == "bf16" else 4), max(1, round(length))
    cached = cost.cache_numbers(model, T)
    if cached is None:
        raise KeyError(model.family)
    V = (model.vocab_size or 0) if isinstance(model, TokenModelConfig) else 0
    flops = rows * cost.flops(model, T).forward / T
    weights, keys = number * cost.parameters(model), number * rows * cached
    tensors = len(cost.tensors(model))
    return [float(flops), float(weights), float(keys), float(rows * V), float(tensors), 1.0]


def fit(rows: list[list[float]], seconds: list[float]) -> list[float]:
    """Constants, none negative, by which rows of features tell seconds best, relatively."""
    import numpy as np
    from scipy.optimize import nnls

    x, y = np.array(rows), np.array(seconds)
    # Operations are 1e10, tensors 50; in fp32 no scores are written out.
    scale = np.where(x.max(0) > 0, x.max(0), 1.0)
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
        own = Calibration(**plain)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return own if own.machine == machine() else None
