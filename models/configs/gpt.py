"""A decoder-only Transformer, as its sizes and choices."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from models.configs.base import CausalConfig
from models.configs.checks import (
    MOST_LAYERS,
    check_choice,
    check_positive,
    check_probability,
    check_size,
    check_switch,
)

NORMS = ("layernorm", "rmsnorm")
POSITIONS = ("learned", "sinusoidal", "rotary")
ACTIVATIONS = ("gelu", "gelu_erf", "swiglu")
SCALINGS = ("none", "linear", "llama3")
SCORES = ("dot", "squared_dot", "negated_dot", "cosine", "additive")
MASKS = ("causal", "sliding_window", "reversed", "none")
ADAPTERS = ("lora", "bottleneck", "bias", "prompt", "prefix")
VIRTUAL = ("prompt", "prefix")
"""Adapters that are tokens which nobody has written."""
TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
SEES_TARGET = ("reversed", "none")
"""Masks under which a token attends to the one that it predicts."""


@dataclass
class GPTConfig(CausalConfig):
    """A decoder-only Transformer: GPT-2 and Llama are two settings of it.

    Raises:
        ValueError: from the constructor, for a value or a combination that cannot work.
    """

    shapeless: ClassVar[tuple[str, ...]] = (
        *("heads", "norm", "positions", "activation", "rotary_base", "norm_eps"),
        *("rotary_scaling", "rotary_factor", "rotary_trained_positions"),
        *("score", "mask", "window"),
    )
    initial: ClassVar[tuple[str, ...]] = ("init_std",)
    recomputes: ClassVar[bool] = True

    family: str = "gpt"
    layers: int = 4
    """Blocks of attention and feed-forward."""
    width: int = 128
    """Numbers per token between the blocks."""
    heads: int = 4
    """Query heads per layer."""
    head_dim: int | None = None
    """Numbers per head. None: width / heads."""
    kv_heads: int | None = None
    """Key and value heads per layer, each shared by heads / kv_heads query heads. None: as many
    as heads."""
    ffn_width: int | None = None
    """Hidden units per feed-forward. None: 4 x width, or with swiglu 8/3 x width rounded up to a
    multiple of 64."""
    norm: str = "layernorm"
    """layernorm or rmsnorm."""
    positions: str = "learned"
    """learned, sinusoidal or rotary."""
    activation: str = "gelu"
    """gelu (its tanh form, as in GPT-2), gelu_erf (exact, and in bf16 on a CPU 3 times as fast) or
    swiglu."""
    bias: bool = True
    """Whether projections and layer norms add a bias."""
    qkv_bias: bool | None = None
    """Whether the projection to queries, keys and values adds one. None: as bias says."""
    qk_norm: bool = False
    """Whether queries and keys of each head get an RMSNorm, before positions turn them."""
    dropout: float = 0.0
    """Probability, on embeddings, attention weights and both residual branches."""
    rotary_base: float = 10000.0
    """Longest rotary wavelength, in tokens / 2 pi."""
    rotary_scaling: str = "none"
    """How rotary positions reach beyond those that a model was first trained on: none; linear
    (every wavelength x rotary_factor); or llama3 (those of a quarter of rotary_trained_positions
    and more, short ones stay)."""
    rotary_factor: float = 1.0
    """By how much wavelengths grow."""
    rotary_trained_positions: int | None = None
    """For llama3: the longest sequence, in tokens, of the training before."""
    score: str = "dot"
    """What a query and a key make: dot (q.k / sqrt K), or for study squared_dot (its square),
    negated_dot, cosine (sqrt K x cosine), additive (v.tanh(q + k) with a learned v per head)."""
    mask: str = "causal"
    """Which tokens a token attends to: causal (those up to it), sliding_window (the last `window`
    of them), or for study reversed (those from it on) or none (all). The last two see the token
    that is to be predicted."""
    window: int | None = None
    """For mask=sliding_window: tokens that a token attends to, itself among them. None: a quarter
    of max_positions."""
    adapter: str | None = None
    """What is trained, with a value head, beside weights that stay: lora (low-rank updates of
    projections, Hu et al. 2021), bottleneck (a narrow layer behind attention and feed-forward,
    Houlsby et al. 2019), bias (biases alone, Ben Zaken et al. 2021), prompt (vectors in place of
    tokens before each text, Lester et al. 2021) or prefix (keys and values there in each layer, Li
    and Liang 2021). None: all weights are trained."""
    adapter_tokens: int = 20
    """For prompt and prefix: virtual tokens, which every token of a text attends to. Those of the
    text keep their positions, so that as many as before have room."""
    adapter_rank: int = 8
    """For lora: rank of each update. For bottleneck: its units."""
    adapter_alpha: float = 16.0
    """For lora: an update counts alpha / rank times."""
    adapter_dropout: float = 0.0
    """For lora: probability, on what an update reads."""
    adapter_targets: list[str] = field(default_factory=lambda: ["query", "value"])
    """For lora: which projections get one: query, key, value and output of attention; gate (with
    swiglu), up and down of the feed-forward."""
    sparse: bool = False
    """Whether weights of the blocks' projections that are zero stay so in training, as `orchestrate
    prune` has left them."""
    norm_eps: float = 1e-5
    """Added to the variance (layernorm) or mean square (rmsnorm)."""
    init_std: float = 0.02
    """Std of the initial weights; projections onto the residual stream get 1 / sqrt(2 layers)
    of it."""

    def __post_init__(self) -> None:
        """Check every value, then how they fit together."""
        super().__post_init__()
        check_choice("norm", self.norm, NORMS)
        check_choice("positions", self.positions, POSITIONS)
        check_choice("activation", self.activation, ACTIVATIONS)
        for name in ("width", "heads"):
            check_size(name, getattr(self, name))
        check_size("layers", self.layers, MOST_LAYERS)
        for name in ("kv_heads", "ffn_width", "head_dim", "rotary_trained_positions", "window"):
            if getattr(self, name) is not None:
                check_size(name, getattr(self, name))
        for name in ("bias", "qk_norm", "sparse"):
            check_switch(name, getattr(self, name))
        if self.qkv_bias is not None:
            check_switch("qkv_bias", self.qkv_bias)
        for name in ("rotary_base", "rotary_factor", "norm_eps", "init_std"):
            check_positive(name, getattr(self, name))
        check_probability("dropout", self.dropout)
        check_choice("rotary_scaling", self.rotary_scaling, SCALINGS)
        check_choice("score", self.score, SCORES)
        check_choice("mask", self.mask, MASKS)
        if self.rotary_scaling == "llama3" and self.rotary_trained_positions is None:
            raise ValueError(
                "model.rotary_scaling=llama3 needs model.rotary_trained_positions, in tokens; try "
                f"model.rotary_trained_positions={max(1, self.max_positions // 4)}"
            )
        self._check_adapter()
        self._check_heads()

    def _check_adapter(self) -> None:
        """Check that there is something to train, and that updates are low-rank ones of it."""
        if self.adapter is not None:
            check_choice("adapter", self.adapter, ADAPTERS)
        check_size("adapter_rank", self.adapter_rank)
        check_size("adapter_tokens", self.adapter_tokens)
        check_positive("adapter_alpha", self.adapter_alpha)
        check_probability("adapter_dropout", self.adapter_dropout)
        for target in self.adapter_targets:
            check_choice("adapter_targets", target, TARGETS)
        if self.adapter == "bias" and not (self.bias or self.qkv_bias):
            raise ValueError(
                "model.adapter=bias trains biases alone, and with model.bias=false there are none; "
                "try model.adapter=lora"
            )
        if self.adapter in ("lora", "bottleneck") and self.adapter_rank > self.width:
            raise ValueError(
                f"model.adapter_rank={self.adapter_rank} must be at most model.width={self.width}, "
                "or the model itself is the smaller one; try model.adapter_rank=8"
            )
        if self.adapter != "lora":
            return
        if self.sparse:
            raise ValueError(
                "model.adapter=lora fills the weights that model.sparse=true keeps at zero; try "
                "model.adapter=bottleneck, or all weights with model.adapter=null"
            )
        if not self.adapter_targets or len(set(self.adapter_targets)) < len(self.adapter_targets):
            raise ValueError(
                f"model.adapter_targets={self.adapter_targets} must name projections, each once; "
                "try model.adapter_targets=[query,value]"
            )
        if "gate" in self.adapter_targets and self.activation != "swiglu":
            raise ValueError(
                f"model.adapter_targets has gate, which model.activation={self.activation} has "
                "not; try up alone"
            )

    def _check_heads(self) -> None:
        """Check that heads share the width evenly, and that positions fit the heads."""
        if self.head_dim is not None:
            if self.positions == "rotary" and self.head_dim % 2:
                raise ValueError(
                    f"model.positions=rotary turns pairs of numbers, so model.head_dim="
                    f"{self.head_dim} must be even; nearest: {self.head_dim + 1}"
                )
            self._check_shared()
            return
        step = self.heads  # every width that works is a multiple of this
        if self.positions == "rotary":
            step = 2 * self.heads
        elif self.positions == "sinusoidal":
            step = math.lcm(2, self.heads)
        below = self.width // step * step
        nearest = f"nearest: {', '.join(str(w) for w in (below, below + step) if w > 0)}"
        if self.width % self.heads:
            raise ValueError(
                f"model.width={self.width} must be a multiple of model.heads={self.heads}; "
                f"{nearest}"
            )
        if self.positions == "rotary" and self.width % step:
            raise ValueError(
                f"model.positions=rotary turns pairs of numbers, so the head width must be even, "
                f"but model.width={self.width} / model.heads={self.heads} = {self.head_width}; "
                f"set model.width, {nearest}"
            )
        if self.positions == "sinusoidal" and self.width % step:
            raise ValueError(
                f"model.positions=sinusoidal pairs sines with cosines, so model.width="
                f"{self.width} must be even; {nearest}"
            )
        self._check_shared()

    def _check_shared(self) -> None:
        """Check that query heads share key and value heads evenly."""
        if self.heads % self.key_value_heads:
            small = [n for n in range(1, math.isqrt(self.heads) + 1) if self.heads % n == 0]
            divisors = [*small, *(self.heads // n for n in small)]
            low = max((n for n in divisors if n < self.key_value_heads), default=1)
            high = min((n for n in divisors if n > self.key_value_heads), default=self.heads)
            raise ValueError(
                f"model.heads={self.heads} must be a multiple of model.kv_heads={self.kv_heads}; "
                f"nearest model.kv_heads: {', '.join(str(n) for n in sorted({low, high}))}"
            )

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        found = super().unread()
        if self.positions != "rotary":
            own = ("rotary_base", "rotary_scaling", "rotary_factor", "rotary_trained_positions")
            found |= dict.fromkeys(own, "it is for model.positions=rotary")
        elif self.rotary_scaling == "none":
            found["rotary_factor"] = "it is for model.rotary_scaling=linear or llama3"
        if self.rotary_scaling != "llama3":
            found["rotary_trained_positions"] = "it is for model.rotary_scaling=llama3"
        if self.adapter != "lora":
            lora = ("adapter_alpha", "adapter_dropout", "adapter_targets")
            found |= dict.fromkeys(lora, "it is for model.adapter=lora")
        if self.adapter not in ("lora", "bottleneck"):
            found["adapter_rank"] = "it is for model.adapter=lora or bottleneck"
        if self.adapter not in VIRTUAL:
            found["adapter_tokens"] = "it is for model.adapter=prompt or prefix"
        if self.mask != "sliding_window":
            found["window"] = "it is for model.mask=sliding_window"
        return found

    @property
    def steps(self) -> bool:
        """Whether one token's pass is what weights and dot products make, by models/decoding."""
        return self.score == "dot" and self.adapter not in ("bottleneck", *VIRTUAL)

    @property
    def head_width(self) -> int:
        """`head_dim`; where it is None, the heads share the width."""
        return self.width // self.heads if self.head_dim is None else self.head_dim

    @property
    def window_width(self) -> int:
        """`window`; where it is None, a quarter of `max_positions`."""
        return max(1, self.max_positions // 4) if self.window is None else self.window

    @property
    def sees_target(self) -> bool:
        """Whether a token attends to the one that it is to predict."""
        return self.mask in SEES_TARGET

    @property
    def key_value_heads(self) -> int:
        """`kv_heads`, or as many as `heads` where it is None."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def feed_forward_width(self) -> int:
        """`ffn_width`; where it is None, about as many weights with either activation.

        gelu, gelu_erf: 4 width, in two matrices. swiglu: 8/3 width (Shazeer 2020, section 3) in
        three matrices, rounded up to a multiple of 64.
        """
        if self.ffn_width is not None:
            return self.ffn_width
        if self.activation == "swiglu":
            return math.ceil(8 * self.width / (3 * 64)) * 64
        return 4 * self.width
