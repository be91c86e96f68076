"""An encoder-decoder of transformers (T5, Marian, BART) behind the interface of ours.

B batch, S source tokens, T target tokens, D model width, V vocabulary.
"""

from torch import Tensor, nn
from torch.nn import functional

from models.cache import KeysValues, KVCache
from models.configs.hf import HFConfig
from models.hf.wrapped import HFModel


def wrapped(config: HFConfig) -> nn.Module:
    """The module of transformers behind the interface of what it does."""
    return HFEncoderDecoder(config) if config.translates else HFModel(config)


class HFEncoderDecoder(HFModel):
    """Predicts each target token from those before it and from the whole source."""

    def forward(  # type: ignore[override]  # as `Transformer.forward`, not as a causal model's
        self,
        source: Tensor,
        target: Tensor,
        source_mask: Tensor | None = None,
        targets: Tensor | None = None,
        loss_mask: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Return the logits (B, T, V), or the summed loss; see `Transformer.forward`."""
        mask = None if source_mask is None else source_mask.long()
        logits: Tensor = self.theirs(
            input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False
        ).logits
        if targets is None:
            return logits
        assert loss_mask is not None
        return functional.cross_entropy(
            logits[loss_mask].float(),
            targets[loss_mask],
            reduction="sum",
            label_smoothing=label_smoothing,
        )

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Return a vector for each token of source (B, S): (B, S, D)."""
        mask = None if source_mask is None else source_mask.long()
        encoded: Tensor = self.theirs.get_encoder()(
            input_ids=source, attention_mask=mask
        ).last_hidden_state
        return encoded

    def memory(self, encoded: Tensor) -> list[KeysValues]:
        """The encoded source itself, as keys and as values: theirs makes both inside."""
        return [(encoded, encoded)]

    def decode(
        self,
        target: Tensor,
        memory: list[KeysValues],
        source_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return the logits (B, T, V) of target (B, T), behind the tokens of a cache."""
        from transformers.modeling_outputs import BaseModelOutput

        [(encoded, _)] = memory
        result = self.theirs(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            attention_mask=None if source_mask is None else source_mask.long(),
            decoder_input_ids=target,
            use_cache=cache is not None,
            **({} if cache is None else {self.cache_name: cache.foreign}),
        )
        if cache is not None:
            cache.length += target.shape[1]
            cache.foreign = getattr(result, self.cache_name)
        logits: Tensor = result.logits
        return logits

    def logits(self, hidden: Tensor) -> Tensor:
        """What `decode` gives are logits already."""
        return hidden
