"""Next-token prediction as an objective of the loop."""

import torch

from data import Batch
from orchestrator.training.engine import Engine
from orchestrator.training.objectives import Summed


def next_token(engine: Engine, batch: Batch) -> Summed:
    """The loss of each token that counts, given those before it in its document or row."""
    device = engine.device
    rows = torch.from_numpy(batch.tokens).to(device)  # (B, T+1)
    loss_mask = torch.from_numpy(batch.loss_mask).to(device)  # (B, T)
    documents = None if batch.documents is None else torch.from_numpy(batch.documents).to(device)
    return Summed(
        engine.forward(rows[:, :-1], documents=documents, targets=rows[:, 1:], loss_mask=loss_mask)
    )
