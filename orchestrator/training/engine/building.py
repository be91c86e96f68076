"""From settings to an engine, with its model made on the way."""

import torch

from orchestrator.config import EngineConfig, OptimConfig
from orchestrator.training.engine import whole
from orchestrator.training.engine.protocol import Engine
from orchestrator.training.engine.torch_engine import TorchEngine
from orchestrator.training.engine.zero_engine import ZeroEngine
from orchestrator.training.hostmemory import giving_back_freed_memory
from orchestrator.training.materialise import Make, on_meta
from orchestrator.training.state import StateReader, check_parameters


def build(
    model: Make,
    settings: EngineConfig,
    optim: OptimConfig | None,
    *,
    device: torch.device,
    seed: int = 0,
    micro_batch: int = 1,
    accumulation_steps: int = 1,
    reader: StateReader | None = None,
    resumed_step: int | None = None,
) -> Engine:
    """An engine around a new model. Every rank calls it, with the same arguments.

    Args:
        model: its config, or a function that builds it.
        settings: of the engine.
        optim: of the optimizer. None: the model is frozen, and has a forward pass alone; under
            ZeRO 3 it is in shards, otherwise whole on each rank.
        device: where this rank computes.
        seed: of the initial weights; they depend on it alone, whatever the engine.
        micro_batch: samples of one forward pass on one rank.
        accumulation_steps: micro-batches of one optimizer step on one rank.
        reader: saved state to start from, in place of random weights.
        resumed_step: optimizer steps after which the reader's state was saved; the optimizer goes
            on from its own. None: only the weights are taken.

    Raises:
        DifferentState: the reader holds the weights of another model.
        ValueError: a setting that this model does not have.
    """
    made = on_meta(model)
    if reader is not None:
        check_parameters(reader, whole.shapes(made))
    if settings.activation_checkpointing:
        if not hasattr(made, "activation_checkpointing"):
            raise ValueError(
                f"engine.activation_checkpointing=true is not for {type(made).__name__}, which "
                "keeps all activations; set engine.activation_checkpointing=false"
            )
        made.activation_checkpointing = True  # type: ignore[assignment]
    if optim is None:
        made.requires_grad_(False).eval()
    engine: Engine
    with giving_back_freed_memory(sum(own.numel() for own in made.parameters())):
        if settings.name == "deepspeed" and (optim is not None or settings.sharding_stage == 3):
            engine = ZeroEngine(
                made,
                settings,
                optim,
                device=device,
                seed=seed,
                draw=reader is None,
                micro_batch=micro_batch,
                accumulation_steps=accumulation_steps,
            )
        else:
            engine = TorchEngine(
                made, settings, optim, device=device, seed=seed, draw=reader is None
            )
    if reader is not None:
        engine.load_state(reader, resumed_step or 0, optimizer=resumed_step is not None)
    return engine
