"""A model of transformers behind the interface of ours, so that stages take it for one.

B batch, T time (new tokens), V vocabulary.
"""

from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.cache import KVCache
from models.configs.hf import HFConfig
from models.formulas.loss import LOGITS_BYTES
from models.hf.adapting import adapt_theirs
from models.hf.tensors import Part
from models.loss import chunks_of, graded, scores_of_logits

THEIRS = "theirs."  # before the name of each of their parameters
CLASSES = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}


def build_theirs(config: HFConfig) -> nn.Module:
    """Build the module of transformers with random weights, on torch's current default device.

    No code is taken from anywhere but the installed package.

    Raises:
        ValueError: transformers is not installed, or does not know the architecture.
    """
    if not config.model_type:
        raise ValueError(
            "model.family=hf is a model of transformers, and model.model_type='' names none; "
            "give its folder: model.weights=FOLDER"
        )
    try:
        import transformers
    except ImportError:
        raise ValueError(
            f"a model of the architecture {config.model_type} needs the package transformers; "
            "try pip install 'orchestrate[hf]'"
        ) from None
    own = {key: value for key, value in config.settings.items() if key != "model_type"}
    own |= {"use_cache": config.task == "causal", "dtype": "float32"}
    if config.vocab_size is not None:
        own["vocab_size"] = config.vocab_size
    try:
        theirs = transformers.AutoConfig.for_model(config.model_type, **own)
        built: nn.Module = getattr(transformers, CLASSES[config.task]).from_config(
            theirs, trust_remote_code=False
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"transformers {transformers.__version__} builds no {config.task} model of "
            f"model_type={config.model_type}: {str(error).splitlines()[0]}"
        ) from None
    return built


class HFModel(nn.Module):
    """Predicts tokens with a module of transformers, `theirs`."""

    def __init__(self, config: HFConfig) -> None:
        """Draw the weights as transformers does."""
        super().__init__()
        self.config = config
        self.theirs: Any = build_theirs(config)
        draw: Any = self.theirs._init_weights
        modules: list[Any] = list(self.theirs.modules())
        for each in modules:
            if [*each.parameters(recurse=False), *each.buffers(recurse=False)]:
                # Made one after another, as every model here: their own way to draw a module.
                each.reset_parameters = partial(draw, each)
        if config.adapter is not None:
            adapt_theirs(self.theirs, config)

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        documents: Tensor | None = None,
        targets: Tensor | None = None,
        loss_mask: Tensor | None = None,
        grades: bool = False,
        temperature: float | None = None,
        summed: bool = True,
    ) -> Tensor:
        """Return logits (B, T, V) for tokens (B, T), int64, or losses; as `GPT.forward`.

        Raises:
            ValueError: documents shall be kept apart, which theirs can't.
        """
        if documents is not None:
            raise ValueError(
                f"a model of the architecture {self.config.model_type} can't keep the documents "
                "of a row apart; set data.isolate_documents=false"
            )
        if cache is not None:
            logits = self._continue(tokens, cache)
        elif targets is not None and self._cuts(tokens):
            return self._in_chunks(tokens, targets, loss_mask, grades, summed, temperature)
        else:
            # Without a cache they look whether rows are packed, at numbers that meta lacks.
            logits = self.theirs(input_ids=tokens, use_cache=tokens.is_meta).logits
        if targets is None:
            return logits
        return told(logits, targets, loss_mask, grades, summed, temperature)

    def _cuts(self, tokens: Tensor) -> bool:
        """Whether logits of tokens (B, T) are more than are held at once."""
        if tokens.is_meta or torch.compiler.is_compiling() or self.config.task != "causal":
            return False
        return len(self._chunks(tokens)) > 1

    def _chunks(self, tokens: Tensor) -> list[slice]:
        return list(chunks_of(tokens.flatten(), len(self.head_weight), LOGITS_BYTES))

    def _in_chunks(
        self,
        tokens: Tensor,
        targets: Tensor,
        loss_mask: Tensor | None,
        grades: bool,
        summed: bool,
        temperature: float | None,
    ) -> Tensor:
        """`told`, of logits that are never whole: those of a chunk are computed again to go back.

        What theirs makes of its body's vectors is left to theirs: some bend the logits.
        """
        name = self.theirs.base_model_prefix
        body = getattr(self.theirs, name)
        found = body(input_ids=tokens, use_cache=False)
        rows, wanted = found.last_hidden_state.flatten(0, 1), targets.flatten()
        counted = None if loss_mask is None else loss_mask.flatten()

        def of_chunk(chunk: slice, own: Tensor) -> Tensor:
            given = type(found)(last_hidden_state=own[None])
            self.theirs._modules[name] = Given(given)
            try:
                logits = self.theirs(input_ids=tokens.new_zeros(1, len(own)), use_cache=False)
            finally:
                self.theirs._modules[name] = body
            mask = None if counted is None else counted[None, chunk]
            return told(logits.logits, wanted[None, chunk], mask, grades, False, temperature)

        parts = [
            checkpoint(
                partial(of_chunk, chunk), rows[chunk],
                use_reentrant=False, preserve_rng_state=False,
            )
            for chunk in self._chunks(tokens)
        ]  # fmt: skip
        if grades and loss_mask is not None:
            return torch.cat(parts, 2).view(2, *targets.shape)  # (2, 1, n) each
        whole = torch.cat(parts, 1)[0]  # (B x T, ...)
        if loss_mask is not None and summed and temperature is None:
            return whole.sum()
        return whole.view(*targets.shape, *whole.shape[1:])

    def attention_maps(self, tokens: Tensor) -> dict[str, Tensor]:
        """The attention weights (B, H, T, T) of each layer over tokens (B, T), by a name for each.

        Raises:
            ValueError: theirs tells none: it has no attention, or computes it in another way.
        """
        self.theirs.set_attn_implementation("eager")  # others never hold the weights
        result = self.theirs(input_ids=tokens, output_attentions=True, use_cache=False)
        maps = [own for own in result.attentions or () if own is not None]
        if not maps:
            raise ValueError(
                f"a model of the architecture {self.config.model_type} tells no attention weights"
            )
        return {f"layers.{number}": own.float() for number, own in enumerate(maps)}

    def new_cache(self, capacity: int, starts: Tensor | None = None) -> KVCache:
        """Return an empty memory; the module of transformers keeps its own in it."""
        return KVCache(capacity, starts)

    def next_logits(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Return the logits (B, V) behind the last of tokens (B, T), which continue the cache's."""
        return self._continue(tokens, cache)[:, -1]

    def _continue(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, T, V) of tokens that continue those of the cache, which holds theirs."""
        T, end = tokens.shape[1], cache.length + tokens.shape[1]
        columns = torch.arange(end, device=tokens.device)
        starts = tokens.new_zeros(1) if cache.starts is None else cache.starts
        seen = (columns >= starts[:, None]).long().expand(len(tokens), -1)  # (B, S)
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, -T:]  # (B, T)
        takes = signature(type(self.theirs).forward).parameters
        given = {self.cache_name: cache.foreign}
        if "position_ids" in takes:
            given["position_ids"] = positions
        result = self.theirs(input_ids=tokens, attention_mask=seen, use_cache=True, **given)
        cache.length, cache.foreign = end, getattr(result, self.cache_name)
        logits: Tensor = result.logits
        return logits

    @property
    def cache_name(self) -> str:
        """What theirs calls its memory, given and returned."""
        takes = signature(type(self.theirs).forward).parameters
        return "cache" if "cache" in takes else "past_key_values"  # before transformers 5.24

    def parts(self) -> dict[str, tuple[Part, ...]]:
        """Their tensor of each parameter, which is the parameter itself."""
        own = {name: tuple(each.shape) for name, each in self.named_parameters()}
        return {name: (Part(name.removeprefix(THEIRS), shape),) for name, shape in own.items()}

    @property
    def prefix(self) -> str:
        """What a file of the model without a head leaves out of the names of its tensors."""
        return f"{self.theirs.base_model_prefix}."

    @property
    def head_weight(self) -> Tensor:
        """The weights (V, D) of the output layer."""
        weight: Tensor = self.theirs.get_output_embeddings().weight
        return weight


class Given(nn.Module):
    """Stands for the body of a model, whose vectors are known."""

    def __init__(self, result: Any) -> None:
        """What the body has returned."""
        super().__init__()
        self.result = result

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The result, whatever is asked."""
        return self.result


def told(
    logits: Tensor,
    targets: Tensor,
    loss_mask: Tensor | None,
    grades: bool,
    summed: bool,
    temperature: float | None,
) -> Tensor:
    """What `LanguageModel.forward` returns for targets (B, T), of logits (B, T, V)."""
    if grades and loss_mask is not None:
        return graded(logits, targets) * loss_mask
    if temperature is not None:
        scores = scores_of_logits(logits, targets, temperature)
        return scores if loss_mask is None else scores * loss_mask[..., None]
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), reduction="none"
    ).view(targets.shape)
    if loss_mask is None:
        return losses
    losses = losses.masked_fill(~loss_mask, 0.0)
    return losses.sum() if summed else losses
