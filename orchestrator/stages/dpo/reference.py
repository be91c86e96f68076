"""What the frozen reference says of answers: in each step, or once before the first.

B pairs of a micro-batch, N pairs of a split, T tokens.
"""

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.config import RoleConfig
from orchestrator.stages.dpo.pairs import OWN, STRANGERS, Batch, Split
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.published import folder_of, keep_arrays, open_arrays
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import evaluating
from orchestrator.training.patience import EVALUATION
from orchestrator.training.preferences import answer_logprobs
from orchestrator.training.roles import build_role

SPLITS = ("train", "validation")
Reference = Callable[[Batch], Tensor]
"""Log-probabilities (B, 2) of the chosen and the rejected answers of a micro-batch."""


def logprobs(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, 2) of the chosen and the rejected answers, and their tokens."""
    rows = torch.from_numpy(batch.tokens).to(engine.device)  # (2B, T+1)
    mask = torch.from_numpy(batch.answers).to(engine.device)  # (2B, T)
    losses = engine.forward(rows[:, :-1], targets=rows[:, 1:], loss_mask=mask, summed=False)
    return answer_logprobs(losses, mask).view(-1, 2), mask.sum(1).view(-1, 2).clamp(min=1)


def live(engine: Engine) -> Reference:
    """The reference that computes when it is asked."""

    def told(batch: Batch) -> Tensor:
        with evaluating(engine):
            return logprobs(engine, batch)[0]

    return told


def looked_up(device: torch.device) -> Reference:
    """What `precomputed` has put beside the pairs."""

    def told(batch: Batch) -> Tensor:
        assert batch.reference is not None
        return torch.from_numpy(batch.reference).to(device)

    return told


def precomputed(
    splits: Sequence[Split],
    follows: Sequence[str],
    role: RoleConfig,
    seed: int,
    micro: int,
    run: Run,
) -> list[Split]:
    """The splits with what the reference says of them. Every rank calls it.

    It is worked out once and kept in the cache, under a name that follows from pairs, weights and
    precision. The model is in memory only meanwhile.

    Args:
        splits: for training and for validation.
        follows: what names the pairs and the weights.
        role: the reference, with the place of its weights.
        seed: of the job.
        micro: pairs of a forward pass.
        run: as this rank sees it.
    """
    names = (OWN, STRANGERS) if splits[0].with_strangers else (OWN,)
    all_of_it = [*follows, role.model.weights_role, role.engine.precision, *names]
    name = sha256(json.dumps(["reference", *all_of_it]).encode()).hexdigest()
    keys = [f"{split}-{what}" for split in SPLITS for what in names]
    there = float(folder_of(name, run.cache).is_dir())
    [known] = distributed.sum_over_ranks([there], run.device)
    if known < distributed.world_size():
        reference = build_role(
            "reference", role, device=run.device, seed=seed, micro_batch=2 * micro
        )
        told = [
            own for split in splits for own in _all_of(reference.engine, split, names, micro, run)
        ]
        keep_arrays(name, dict(zip(keys, told, strict=True)), run.cache)
        del reference
        gc.collect()  # an engine is full of circles
    arrays = dict(zip(keys, open_arrays(name, run.cache, *keys), strict=True))
    return [
        replace(split, reference={what: arrays[f"{own}-{what}"] for what in names})
        for own, split in zip(SPLITS, splits, strict=True)
    ]


def _all_of(
    engine: Engine, split: Split, names: Sequence[str], micro: int, run: Run
) -> list[NDArray[np.float32]]:
    """(N, 2) of a split, over all ranks."""
    found = np.zeros((len(names), len(split), 2))
    ask = live(engine)
    for batch in evaluation(split, micro, distributed.rank(), distributed.world_size()):
        run.heart.beat(EVALUATION)
        for own, asked in zip(found, (batch, batch.strangers), strict=False):
            assert asked is not None
            own[batch.rows[batch.counted]] = ask(asked).double().cpu().numpy()[batch.counted]
    return list(distributed.sum_array(found, run.device).astype(np.float32))
