"""What a job is: JobConfig and its sections, with types, units and every check.

YAML files under conf/ hold only what a choice changes; the defaults and the meaning of each
setting are here. `__post_init__` is the one home of the checks of a section, and
`JobConfig.__post_init__` of those across sections. A wrong value is a ValueError that names the
setting, its value, what it must satisfy, and what to type instead. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.tokenizer import TokenizerConfig
from models import config_from_dict
from models.configs import GPTConfig, ModelConfig
from orchestrator.tracking import TrackingConfig


def check_choice(setting: str, value: str, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`; the message offers the nearest."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f"did you mean {near[0]}?" if near else "choose one of them"
        raise ValueError(f"{setting}={value} is not one of {', '.join(choices)}; {hint}")


def check_at_least(setting: str, value: float, least: float) -> None:
    """Raise ValueError unless `value >= least`."""
    if not value >= least:  # also refuses nan
        raise ValueError(f"{setting}={value} must be at least {least}; try {setting}={least}")


def nearest_multiples(value: int, factor: int) -> str:
    """The multiples of `factor` around `value`, as text for an error: "24, 32"."""
    below = value // factor * factor
    return ", ".join(str(n) for n in (below, below + factor) if n > 0)


@dataclass
class StageConfig:
    """What every stage has: its name in the table of stages."""

    name: str = "pretrain"


@dataclass
class PretrainConfig(StageConfig):
    """Next-token training of a model from random weights."""

    steps: int = 420
    """Optimizer steps of the whole run."""
    global_batch_size: int = 12
    """Sequences per optimizer step, over all ranks."""
    micro_batch_size: int | None = None
    """Sequences in one forward pass on one rank. None: a rank's whole share of a step."""
    evaluate_every: int = 105
    """Steps between evaluations on the validation split; also after the last step."""
    checkpoint_every: int = 210
    """Steps between checkpoints; also after the last step, and when interrupted."""
    checkpoints_kept: int = 2
    """Newest checkpoints that stay on the disk."""
    prompts: list[str] = field(default_factory=lambda: ["The", "Return the", "If the"])
    """Texts that the final weights continue, as a look at what was learned."""
    sample_tokens: int = 80
    """Tokens written after each prompt; 0 for none."""

    def __post_init__(self) -> None:
        """Check that counts are positive."""
        for name in ("steps", "global_batch_size", "evaluate_every", "checkpoint_every"):
            check_at_least(f"stage.{name}", getattr(self, name), 1)
        check_at_least("stage.checkpoints_kept", self.checkpoints_kept, 1)
        check_at_least("stage.sample_tokens", self.sample_tokens, 0)
        if self.micro_batch_size is not None:
            check_at_least("stage.micro_batch_size", self.micro_batch_size, 1)


STAGE_CONFIGS: dict[str, type[StageConfig]] = {"pretrain": PretrainConfig}

SCHEDULES = ("cosine", "wsd", "constant")


@dataclass
class OptimConfig:
    """AdamW (Loshchilov & Hutter 2019) and its learning-rate schedule."""

    learning_rate: float = 3e-3
    """Peak learning rate."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """Decoupled decay of matrices; vectors (norms, biases) are not decayed."""
    gradient_clip: float | None = 1.0
    """Largest global norm of the gradient. None: no clipping."""
    schedule: str = "cosine"
    """cosine, wsd (warm-up, stable, decay) or constant; all after a linear warm-up."""
    warmup_steps: int = 40
    decay_fraction: float = 0.2
    """wsd: the part of all steps over which the rate falls at the end."""
    final_fraction: float = 0.1
    """Learning rate of the last step, as a part of the peak."""

    def __post_init__(self) -> None:
        """Check ranges and choices."""
        check_choice("optim.schedule", self.schedule, SCHEDULES)
        check_at_least("optim.warmup_steps", self.warmup_steps, 0)
        check_at_least("optim.weight_decay", self.weight_decay, 0)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name}={getattr(self, name)} must lie in [0, 1)")
        for name in ("decay_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name}={getattr(self, name)} must lie in [0, 1]")
        for name in ("learning_rate", "epsilon", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"optim.{name}={value} must be greater than 0 and finite")


PRECISIONS = ("fp32", "bf16")


@dataclass
class EngineConfig:
    """What carries out forward, backward and step: plain PyTorch or DeepSpeed ZeRO."""

    name: str = "deepspeed"
    """torch (one process) or deepspeed."""
    zero_stage: int = 1
    """deepspeed: what is sharded over ranks; 0 nothing, 1 optimizer state, 2 and gradients,
    3 and parameters (Rajbhandari et al. 2020)."""
    offload_optimizer: bool = False
    """deepspeed, stages 1 to 3: optimizer state lives in host memory."""
    offload_parameters: bool = False
    """deepspeed, stage 3: parameters live in host memory between uses."""
    precision: str = "fp32"
    """fp32, or bf16 for matrix products with fp32 master weights."""
    activation_checkpointing: bool = False
    """Keep only the input of each block and compute the rest again in the backward pass."""
    compile: bool = False
    """torch.compile the model; needs a C++ compiler on a CPU."""

    def __post_init__(self) -> None:
        """Check choices and the offload rules of ZeRO."""
        check_choice("engine.name", self.name, ("torch", "deepspeed"))
        check_choice("engine.precision", self.precision, PRECISIONS)
        if not 0 <= self.zero_stage <= 3:
            raise ValueError(f"engine.zero_stage={self.zero_stage} must be 0, 1, 2 or 3")
        if self.offload_parameters and (self.name != "deepspeed" or self.zero_stage != 3):
            raise ValueError(
                "engine.offload_parameters=true needs ZeRO 3; try engine=zero3_offload"
            )
        if self.offload_optimizer and (self.name != "deepspeed" or self.zero_stage == 0):
            raise ValueError(
                "engine.offload_optimizer=true needs ZeRO 1 to 3; try engine=zero2_offload"
            )


@dataclass
class ResourcesConfig:
    """Where the workers run."""

    launcher: str = "ray"
    """ray (a gang of workers) or inline (this process; one rank of torchrun if it started us)."""
    workers: int = 1
    """Ranks of the job; one per GPU where there are GPUs."""
    cpus_per_worker: int = 1
    """CPU cores that a worker reserves, and threads that it computes with."""
    gpus_per_worker: int = 0
    """0 or 1."""
    address: str | None = None
    """Ray cluster to run on. None: a Ray on this machine that starts and ends with the job."""

    def __post_init__(self) -> None:
        """Check ranges and choices."""
        check_choice("resources.launcher", self.launcher, ("ray", "inline"))
        check_at_least("resources.workers", self.workers, 1)
        check_at_least("resources.cpus_per_worker", self.cpus_per_worker, 1)
        if self.gpus_per_worker not in (0, 1):
            raise ValueError(f"resources.gpus_per_worker={self.gpus_per_worker} must be 0 or 1")

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return "cuda" if self.gpus_per_worker else "cpu"


@dataclass
class JobConfig:
    """One job: a stage and all it needs. The whole of config.yaml in a run folder."""

    stage: StageConfig = field(default_factory=PretrainConfig)
    model: ModelConfig = field(default_factory=GPTConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    """Of initial weights, dropout and sample order."""
    outputs: str = "outputs"
    """Folder that holds the run folders."""
    resume: str | None = None
    """Run folder or checkpoint to continue from. None: random weights."""

    def __post_init__(self) -> None:
        """Check what concerns more than one section."""
        self._check_batch()
        if isinstance(self.model, GPTConfig):
            T, longest = self.data.sequence_length, self.model.max_positions
            if longest < T:
                raise ValueError(
                    f"data.sequence_length={T} is longer than model.max_positions={longest}; "
                    f"try data.sequence_length={longest} or model.max_positions={T}"
                )
        if self.engine.name == "torch" and self.resources.workers > 1:
            raise ValueError(
                f"engine=torch runs in one process, but resources.workers="
                f"{self.resources.workers}; try resources.workers=1 or engine=zero0"
            )
        stage = self.stage
        if isinstance(stage, PretrainConfig) and self.optim.warmup_steps >= stage.steps:
            raise ValueError(
                f"optim.warmup_steps={self.optim.warmup_steps} must be less than "
                f"stage.steps={stage.steps}; try optim.warmup_steps={stage.steps // 10}"
            )

    def _check_batch(self) -> None:
        stage, world_size = self.stage, self.resources.workers
        if not isinstance(stage, PretrainConfig):
            return
        batch, micro = stage.global_batch_size, stage.micro_batch_size
        unit = (micro or 1) * world_size
        if batch % unit == 0:
            return
        product = f"resources.workers={world_size}"
        if micro is not None:
            product = (
                f"stage.micro_batch_size x resources.workers = {micro} x {world_size} = {unit}"
            )
        fitting = [n for n in range(1, world_size) if batch % ((micro or 1) * n) == 0]
        fewer = f"; or try resources.workers={fitting[-1]}" if fitting else ""
        raise ValueError(
            f"stage.global_batch_size={batch} must be a multiple of {product}; "
            f"nearest: {nearest_multiples(batch, unit)}{fewer}"
        )

    @property
    def pretrain(self) -> PretrainConfig:
        """The stage section as what a pretrain job holds."""
        assert isinstance(self.stage, PretrainConfig)
        return self.stage

    @property
    def micro_batch_size(self) -> int:
        """Sequences in one forward pass on one rank."""
        stage = self.pretrain
        return stage.micro_batch_size or stage.global_batch_size // self.resources.workers

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches per optimizer step on one rank."""
        return self.pretrain.global_batch_size // (self.micro_batch_size * self.resources.workers)


def to_dict(config: JobConfig) -> dict[str, Any]:
    """The config as plain data, for config.yaml."""
    return asdict(config)


def load(path: Path) -> JobConfig:
    """The config of a run from its config.yaml; what the file lacks has its default.

    Raises:
        ValueError: a key is unknown, or the file is not one that a run has written.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {field.name for field in fields(JobConfig)}
    if not isinstance(plain, dict) or not {"stage", "model"} <= plain.keys():
        raise ValueError(f"{path} is not the config of a run: it has no stage and model")
    if unknown := plain.keys() - known:
        raise ValueError(f"{path}: unknown settings {', '.join(sorted(unknown))}")
    check_choice("stage.name", plain["stage"]["name"], STAGE_CONFIGS)
    nodes = {**SECTIONS, "stage": STAGE_CONFIGS[plain["stage"]["name"]]}
    try:
        for name, node in nodes.items():
            if name in plain:
                merged = OmegaConf.merge(OmegaConf.structured(node), plain[name])
                plain[name] = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None
    return JobConfig(**{**plain, "model": config_from_dict(plain["model"])})


SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "tokenizer": TokenizerConfig,
    "optim": OptimConfig,
    "engine": EngineConfig,
    "resources": ResourcesConfig,
    "tracking": TrackingConfig,
}
