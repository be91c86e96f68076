"""The loss of a language model by how much it has seen: what a longer context is worth.

B sequences, T time (tokens).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from data import Batch
from data.files import write_text_atomic
from models.layers import document_starts
from orchestrator.record.positions import FILE, draw
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.objectives import Summed

PICTURE = "loss_by_position.png"


class LossByPosition:
    """Sums up an evaluation, place by place of a sequence."""

    def __init__(self, length: int, device: torch.device) -> None:
        """`length` is T, `device` that of the model."""
        self._sums = torch.zeros(2, length, dtype=torch.float64, device=device)  # nats, tokens

    def objective(self, engine: Engine, batch: Batch) -> Summed:
        """Next-token prediction; what it sums up is remembered by place.

        Where documents are kept apart, a token's place is counted from the start of its own.
        """
        device = engine.device
        rows = torch.from_numpy(batch.tokens).to(device)  # (B, T+1)
        mask = torch.from_numpy(batch.loss_mask).to(device)  # (B, T)
        places = torch.arange(mask.shape[1], device=device).expand_as(mask)  # (B, T)
        documents = None
        if batch.documents is not None:
            documents = torch.from_numpy(batch.documents).to(device)
            places = places - document_starts(documents)
        losses = engine.forward(rows[:, :-1], documents=documents, targets=rows[:, 1:])  # (B, T)
        losses = torch.where(mask, losses, 0.0).double()
        self._sums[0].index_add_(0, places.flatten(), losses.flatten())
        self._sums[1].index_add_(0, places.flatten(), mask.double().flatten())
        return Summed(losses.sum())

    def over_ranks(self) -> NDArray[np.float64]:
        """Nats and tokens of each place, (2, T). Every rank calls it."""
        return distributed.sum_array(self._sums.cpu().numpy(), self._sums.device)


def record(run: Run, sums: NDArray[np.float64]) -> None:
    """Put a table and a picture of `over_ranks` on record. Every rank calls it."""
    if distributed.rank() == 0:
        lines = [
            f"{seen},{int(tokens)},{nats / tokens:.6f}\n"
            for seen, (nats, tokens) in enumerate(sums.T, 1)
            if tokens
        ]
        write_text_atomic(run.folder / FILE, "tokens_seen,tokens,loss\n" + "".join(lines))
        if run.pictures:
            draw({"this model": run.folder}, run.folder / PICTURE)
    for path in (FILE, PICTURE) if run.pictures else (FILE,):
        run.event("artifact", path=path)
