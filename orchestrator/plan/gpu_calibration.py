"""What was measured of a kind of GPU, and how long a step takes by that.

A GPU computes while its host launches what comes next, so that each part of a step takes what the
slower of the two takes. Of the host

    pass, update, token = a x tensors + b x blocks that turn positions (RoPE) + c

each with constants of its own; of the GPU

    pass   = the sum of calibration.pass_features
    update = d x parameters
    token  = what the data sheet tells of its bytes and operations

Constants are not negative, with the smallest relative errors.

A file in the cache by the name of the GPU, which `doctor --calibrate` writes; else one of those
beside this file in `measured/`, from a machine that its field `host` names.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from data.files import cache_root, read_json, write_text_atomic
from data.messages import size
from models import cost
from models.configs import ModelConfig
from models.cost import Pass
from orchestrator.plan.calibration import (
    FOLDER,
    fit,
    fit_residuals,
    pass_features,
    place,
    residual,
)

LEAST_BUSY = 1.25
"""Time of a pass over what its host takes, from which on the GPU and not the host is measured."""
WIDER = 1.5
"""Times the widest model that was measured, up to which others are told by it."""


@dataclass(frozen=True)
class GpuCalibration:
    """Of one kind of GPU, in bf16."""

    launches: dict[str, list[float]]
    """Constants a to c of a pass, by engine."""
    host_updates: dict[str, list[float]]
    """Those of an update, likewise."""
    passes: list[float]
    """Of what the GPU computes, as `calibration.pass_features` has them."""
    residuals: list[list[float]]
    """As `Calibration.residuals`."""
    update: float
    """Constant d."""
    writes: list[float]
    """Constants a to c of a token."""
    workspace_bytes: float
    """Of a process, that no formula tells: what libraries of products reserve."""
    host: str
    """Of the GPU, by its processor."""
    widest: int
    """Width of the widest model that kept the GPU busy."""
    shipped: bool = False
    """Whether it came with this code: measured by others, on another machine."""

    def covers(self, model: ModelConfig) -> bool:
        """Whether models that were measured are like it; far wider ones come nearer to the peak."""
        return int(getattr(model, "width", 0)) <= WIDER * self.widest

    def pass_seconds(self, model: ModelConfig, own: Pass) -> float:
        """Of a micro-batch forward and backward, as far as the GPU computes."""
        told = sum(a * x for a, x in zip(self.passes, pass_features(model, own), strict=True))
        return told * math.exp(residual(self.residuals, place(model, own)))

    def launch_seconds(self, model: ModelConfig, engine: str) -> float:
        """Of a micro-batch, for the host."""
        return _line(self.launches[engine], model)

    def host_update_seconds(self, model: ModelConfig, engine: str) -> float:
        """Of the rest of a step, for the host."""
        return _line(self.host_updates[engine], model)

    def token_seconds(self, model: ModelConfig) -> float:
        """Of the host, for one more token of each of any number of texts."""
        return _line(self.writes, model)

    def lines(self, gpu: str) -> list[str]:
        """What was measured, for a reader."""
        hosts = (
            f"{engine} {1e6 * each:.0f} us for a tensor, {1e3 * whole:.2g} ms for a pass"
            for engine, (each, _, whole) in self.launches.items()
        )
        token, _, start = self.writes
        return [
            f"launching   passes {'; '.join(hosts)}; a token {1e6 * token:.0f} us for a tensor, "
            f"{1e3 * start:.2g} ms in all",
            f"workspaces  {size(self.workspace_bytes)} of its memory",
        ]

    def save(self, gpu: str) -> Path:
        """Write it into the cache; returns the file."""
        path = file(gpu)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, json.dumps(asdict(self), indent=1))
        return path


Row = Mapping[str, Any]


def fitted(
    launched: Sequence[tuple[ModelConfig, Row]],
    computed: Sequence[tuple[ModelConfig, Pass, Row]],
    written: Sequence[tuple[ModelConfig, Row]],
    workspace_bytes: float,
    host: str,
) -> GpuCalibration:
    """From what `orchestrator/training/measuring_gpu.py` has measured, in its rows.

    Args:
        launched: models for which the GPU waits, by every engine.
        computed: models that may keep it busy, and their micro-batches.
        written: models that write.
        workspace_bytes, host: as the fields.

    Raises:
        ValueError: no model keeps this GPU busy.
    """
    launches, host_updates = {}, {}
    for engine in sorted({row["engine"] for _, row in launched}):
        own = [(model, row) for model, row in launched if row["engine"] == engine]
        launches[engine] = _fit_line(own, "pass_s")
        host_updates[engine] = _fit_line(own, "update_s")
    busy = [
        (model, each, row)
        for model, each, row in computed
        if row["pass_s"] > LEAST_BUSY * _line(launches[row["engine"]], model)
    ]
    if not busy:
        raise ValueError("this GPU waits for its host with every model that was measured")
    features = [pass_features(model, each) for model, each, _ in busy]
    took = [row["pass_s"] for *_, row in busy]
    passes = fit(features, took)
    told = [sum(a * x for a, x in zip(passes, row, strict=True)) for row in features]
    logs = [math.log(real / each) for real, each in zip(took, told, strict=True)]
    places = [at for model, each, _ in busy if (at := place(model, each)) is not None]
    rates = [
        row["update_s"] / cost.parameters(model)
        for model, _, row in busy
        if row["update_s"] > LEAST_BUSY * _line(host_updates[row["engine"]], model)
    ]
    return GpuCalibration(
        launches,
        host_updates,
        passes,
        fit_residuals(places, logs),
        statistics.median(rates) if rates else 0.0,
        _fit_line(written, "token_s"),
        workspace_bytes,
        host,
        max(int(getattr(model, "width", 0)) for model, *_ in busy),
    )


def _fit_line(rows: Sequence[tuple[ModelConfig, Row]], name: str) -> list[float]:
    """Constants by which the tensors of a model tell a number of its row, in seconds."""
    return fit([_kernels(model) for model, _ in rows], [max(row[name], 1e-5) for _, row in rows])


def file(gpu: str) -> Path:
    """Where the calibration of a GPU is."""
    return cache_root() / FOLDER / f"{gpu}.gpu.json"


def load(gpu: str | None) -> GpuCalibration | None:
    """That of a GPU by its name in GPUS: from the cache, else as it comes; None: there is none."""
    if gpu is None:
        return None
    comes = Path(__file__).parent / "measured" / f"{gpu}.json"
    for path in (file(gpu), comes):
        try:
            plain = read_json(path) | {"shipped": path == comes}
            known = {each.name: plain[each.name] for each in fields(GpuCalibration)}
            return GpuCalibration(**known)
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return None


def _kernels(model: ModelConfig) -> list[float]:
    """What kernels are launched for: tensors, blocks that turn positions (RoPE), and a pass."""
    turned = getattr(model, "layers", 0) if getattr(model, "positions", "") == "rotary" else 0
    return [float(len(cost.tensors(model))), float(turned), 1.0]


def _line(constants: Sequence[float], model: ModelConfig) -> float:
    return sum(a * x for a, x in zip(constants, _kernels(model), strict=True))
