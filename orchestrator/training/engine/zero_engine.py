"""DeepSpeed, ZeRO 0 to 3 over all ranks of the process group."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.config import EngineConfig, OptimConfig
from orchestrator.config.engine import BUCKET, PREFETCHED, REUSED, SUB_GROUP
from orchestrator.training import distributed
from orchestrator.training import optim as optimizers
from orchestrator.training.engine import layouts, whole
from orchestrator.training.engine.importing import import_deepspeed, quiet
from orchestrator.training.engine.sharding import Sharding
from orchestrator.training.engine.torch_engine import cast, clip
from orchestrator.training.materialise import materialise
from orchestrator.training.state import Slice, StateReader, check_optimizer, check_parameters


class ZeroEngine:
    """ZeRO 0 to 3 with an optimizer, or ZeRO 3 without one: a frozen model in shards."""

    def __init__(
        self,
        model: nn.Module,
        settings: EngineConfig,
        optim: OptimConfig | None,
        *,
        device: torch.device,
        seed: int,
        draw: bool,
        micro_batch: int,
        accumulation_steps: int,
    ) -> None:
        """Materialise a model from the meta device; see `build`."""
        deepspeed = import_deepspeed(device)
        self.device = device
        self.model = model
        self._optim = optim
        self._dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        config = zero_config(settings, optim, micro_batch, accumulation_steps)
        with quiet():
            deepspeed.init_distributed(distributed.backend(device))
            if settings.sharding_stage == 3:
                shard = Sharding(deepspeed, config, model, draw)
                materialise(model, device, seed=seed, draw=draw, made=self._cast_and(shard))
                del shard  # its memory is free as soon as DeepSpeed has copied it
            else:
                materialise(model, device, seed=seed, draw=draw, made=self._cast_parameter)
            optimizer = None if optim is None else optimizers.build(model, optim)
            self._state_keys = whole.state_keys(model, optimizer)
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=config
            )
            if settings.compile:
                self._engine.compile()
        if settings.sharding_stage == 1 and distributed.world_size() == 1:
            # Nothing is to be summed: DeepSpeed would copy all gradients to a buffer and back.
            self._optimizer.buffered_reduce_fallback = lambda *_, **__: None
        # What DeepSpeed averages over ranks is to be summed.
        self._factor = distributed.world_size() if self._engine.gradient_average else 1
        self._layout = self._find_layout(settings.sharding_stage)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the model returns for these inputs; floating-point ones in its precision."""
        inputs = tuple(cast(value, self._dtype) for value in inputs)
        named = {name: cast(value, self._dtype) for name, value in named.items()}
        return self._engine(*inputs, **named)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient."""
        self._trained()
        self._engine.backward(loss * self._factor, scale_wrt_gas=False)
        # DeepSpeed counts micro-batches: it steps after the last one of the optimizer step.
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, learning_rate: float) -> float:
        """Reduce, clip and apply the gradient; returns its global norm before clipping."""
        optim = self._trained()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if isinstance(self._optimizer, torch.optim.Optimizer):
            # ZeRO 0 in fp32: DeepSpeed would clip, but not say the norm
            norm = clip(self.model.parameters(), optim.gradient_clip)
            if math.isfinite(norm):
                self._engine.step()
            return norm
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def state(self) -> Iterator[Slice]:
        """What this rank holds; at ZeRO 0, its share of what all hold."""
        return self._layout.slices()

    def load_state(self, reader: StateReader, step: int, *, optimizer: bool = True) -> None:
        """Take over weights and optimizer state; each rank reads what it holds."""
        check_parameters(reader, whole.shapes(self.model))
        if self._optim is not None:
            inner: Any = getattr(self._optimizer, "optimizer", self._optimizer)
            inner.state.clear()
            if optimizer:
                check_optimizer(reader, self._state_keys, self._optim.name)
                self._layout.create_state(step)
        self._layout.load(reader)

    def _find_layout(self, stage: int) -> layouts.Layout:
        if self._optim is None:
            return layouts.FrozenShardedLayout(self.model.named_parameters(), self._optimizer)
        if stage == 3:
            return layouts.ShardedLayout(self.model, self._optimizer)
        if stage == 0:
            return layouts.WholeLayout(self.model, self._optimizer)
        return layouts.FlatLayout(self.model, self._optimizer)

    def _cast_parameter(self, parameter: nn.Parameter) -> None:
        parameter.data = parameter.data.to(self._dtype)

    def _cast_and(self, shard: Sharding) -> Callable[[nn.Parameter], None]:
        def made(parameter: nn.Parameter) -> None:
            self._cast_parameter(parameter)
            shard(parameter)

        return made

    def _trained(self) -> OptimConfig:
        if self._optim is None:
            raise RuntimeError("this engine was built without an optimizer: its model is frozen")
        return self._optim


def zero_config(
    settings: EngineConfig, optim: OptimConfig | None, micro_batch: int, accumulation_steps: int
) -> dict[str, Any]:
    """DeepSpeed's own config for these settings."""
    plain = settings.sharding_stage == 0 and settings.precision == "fp32"  # clipped by ZeroEngine
    limit = None if optim is None or plain else optim.gradient_clip
    zero: dict[str, Any] = {
        "stage": settings.sharding_stage,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
        "sub_group_size": SUB_GROUP,
        "stage3_prefetch_bucket_size": PREFETCHED,
        "stage3_max_reuse_distance": REUSED,
        # At stage 1 gradients stay where the backward pass has put them: the buffer for them would
        # be two more copies, for its own sake.
        "contiguous_gradients": settings.sharding_stage > 1,
    }
    if settings.offload_optimizer and optim is not None:
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": limit or 0.0,
        "zero_optimization": zero,
        # The norm tells as well whether gradients are finite, without two more passes over them.
        "bf16": {"enabled": settings.precision == "bf16", "check_grad_overflow": False},
        # Stage 3 knows averages alone; elsewhere they are a pass over the gradients for nothing.
        "gradient_allreduce_op": "mean" if settings.sharding_stage == 3 else "sum",
        # Ours and torch's optimizers also under offload: DeepSpeed's need a C++ compiler at run
        # time, and it has tested ZeRO with few others, though all that act on single elements fit.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
