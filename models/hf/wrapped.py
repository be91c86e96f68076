"""A model of transformers behind the interface of ours, so that stages take it for one.

B batch, T time (new tokens), V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from models.cache import KVCache
from models.configs.hf import HFConfig
from models.hf.adapting import adapt_theirs
from models.hf.tensors import Part
from models.loss import (
    grades_of_logits,
    is_cut,
    losses_of_logits,
    per_token,
    scores_of_logits,
)

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
        if targets is None:
            return self._logits(tokens, cache)
        if cache is None and self._cuts(tokens):
            vectors, logits_of = self._vectors(tokens)
        else:
            vectors, logits_of = self._logits(tokens, cache), _same
        told = partial(
            per_token,
            hidden=vectors,
            logits_of=logits_of,
            vocabulary=len(self.head_weight),
            targets=targets,
            loss_mask=loss_mask,
        )
        if grades and loss_mask is not None:
            return told(grades_of_logits).movedim(-1, 0)
        if temperature is not None:
            return told(partial(scores_of_logits, temperature=temperature))
        losses = told(losses_of_logits)
        return losses.sum() if summed and loss_mask is not None else losses

    def _logits(self, tokens: Tensor, cache: KVCache | None) -> Tensor:
        """The logits (B, T, V) of the token after each of tokens (B, T)."""
        if cache is not None:
            return self._continue(tokens, cache)
        # Without a cache they look whether rows are packed, at numbers that meta lacks.
        logits: Tensor = self.theirs(input_ids=tokens, use_cache=tokens.is_meta).logits
        return logits

    def _cuts(self, tokens: Tensor) -> bool:
        """Whether logits of tokens (B, T) are more than are held at once."""
        if tokens.is_meta or torch.compiler.is_compiling() or self.config.task != "causal":
            return False
        return is_cut(tokens.flatten(), len(self.head_weight))

    def _vectors(self, tokens: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The vectors (B, T, D) of their body, and how theirs makes logits of rows of them.

        That is left to theirs: some bend the logits.
        """
        name = self.theirs.base_model_prefix
        body = getattr(self.theirs, name)
        found = body(input_ids=tokens, use_cache=False)

        def logits_of(rows: Tensor) -> Tensor:
            self.theirs._modules[name] = Given(type(found)(last_hidden_state=rows[None]))
            try:
                told = self.theirs(input_ids=tokens.new_zeros(1, len(rows)), use_cache=False)
            finally:
                self.theirs._modules[name] = body
            logits: Tensor = told.logits[0]
            return logits

        return found.last_hidden_state, logits_of

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


def _same(logits: Tensor) -> Tensor:
    return logits
