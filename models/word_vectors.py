"""Word vectors: CBOW and skip-gram, which give pairs of a word and a neighbour a score.

B centres, C neighbours of each (places of a window), K negatives for each pair, D width, V words.
"""

import torch
from torch import Tensor, nn

from models.configs import WordVectorsConfig
from models.layers import Embedding


class WordVectors(nn.Module):
    """Tables of word vectors; `inputs` are the ones to be used afterwards."""

    def __init__(self, config: WordVectorsConfig) -> None:
        """Draw the vectors; outputs start at zero, so that each pair's loss starts at chance."""
        super().__init__()
        assert config.vocab_size is not None
        self.config = config
        V, D = config.vocab_size, config.width
        self.inputs = Embedding(V, D, std=1 / D)
        self.outputs = Embedding(V, D, std=0.0)

    def forward(
        self, centres: Tensor, neighbours: Tensor, mask: Tensor, negatives: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the scores of true pairs and of negatives, which negative sampling compares.

        Skip-gram: (B, C) and (B, C, K), of the centre's vector with each neighbour's. CBOW: (B, 1)
        and (B, 1, K), of the neighbours' mean with the centre.

        Args:
            centres: int64 (B,).
            neighbours: int64 (B, C).
            mask: bool (B, C), which of them there are.
            negatives: int64 (B, C, K) for skip-gram, (B, 1, K) for CBOW.
        """
        if self.config.family == "skipgram":
            seen, told = self.inputs(centres), self.outputs(neighbours)  # (B, D), (B, C, D)
        else:
            own = self.inputs(neighbours) * mask[..., None]  # (B, C, D)
            seen = own.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)  # (B, D)
            told = self.outputs(centres)[:, None]  # (B, 1, D)
        others = self.outputs(negatives)  # (B, C or 1, K, D)
        true = torch.bmm(told, seen[..., None])[..., 0]
        false = torch.bmm(others.flatten(1, 2), seen[..., None]).view(negatives.shape)
        return true, false
