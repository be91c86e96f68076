"""A decoder-only Transformer, as its sizes and choices."""

import math
from dataclasses import dataclass
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


@dataclass
class GPTConfig(CausalConfig):
    """A decoder-only Transformer: GPT-2 and Llama are two settings of it.

    Raises:
        ValueError: from the constructor, for a value or a combination that cannot work.
    """

    shapeless: ClassVar[tuple[str, ...]] = (
        *("heads", "norm", "positions", "activation", "rotary_base", "norm_eps"),
    )
    initial: ClassVar[tuple[str, ...]] = ("init_std",)
    recomputes: ClassVar[bool] = True

    family: str = "gpt"
    layers: int = 4
    """Blocks of attention and feed-forward."""
    width: int = 128
    """Numbers per token between the blocks."""
    heads: int = 4
    """Query heads per layer; each is width / heads wide."""
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
    dropout: float = 0.0
    """Probability, on embeddings, attention weights and both residual branches."""
    rotary_base: float = 10000.0
    """Longest rotary wavelength, in tokens / 2 pi."""
    norm_eps: float = 1e-5
    """Added to the variance (layernorm) or mean square (rmsnorm)."""
    init_std: float = 0.02
    """Std of the initial weights; projections onto the residual stream get 1 / sqrt(2 layers)
    of it."""

    def __post_init__(self) -> None:
        """Check every value, then how they fit together."""
        super().__post_init__()
        check_choice("family", self.family, ("gpt",))
        check_choice("norm", self.norm, NORMS)
        check_choice("positions", self.positions, POSITIONS)
        check_choice("activation", self.activation, ACTIVATIONS)
        for name in ("width", "heads"):
            check_size(name, getattr(self, name))
        check_size("layers", self.layers, MOST_LAYERS)
        for name in ("kv_heads", "ffn_width"):
            if getattr(self, name) is not None:
                check_size(name, getattr(self, name))
        check_switch("bias", self.bias)
        for name in ("rotary_base", "norm_eps", "init_std"):
            check_positive(name, getattr(self, name))
        check_probability("dropout", self.dropout)
        self._check_heads()

    def _check_heads(self) -> None:
        """Check that heads share the width evenly, and that positions fit the heads."""
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
            found["rotary_base"] = "it is for model.positions=rotary"
        return found

    @property
    def head_width(self) -> int:
        """Numbers per head."""
        return self.width // self.heads

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
