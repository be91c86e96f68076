"""The sizes and choices that define a model, checked once, at construction.

No torch here: the command line composes and checks a config before it imports anything heavy.
"""

import math
from dataclasses import dataclass
from difflib import get_close_matches

NORMS = ("layernorm", "rmsnorm")
POSITIONS = ("learned", "sinusoidal", "rotary")
ACTIVATIONS = ("gelu", "swiglu")


def _size(name: str, value: object) -> None:
    """Raise unless `value` counts something; a bool does not, though Python has it as an int."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"model.{name}={value!r} must be a whole number of at least 1")


def _number(name: str, value: object) -> float:
    """Return `value`, or raise where it is not a number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"model.{name}={value!r} must be a number")
    return value


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `choices`, with the one it looks like."""
    if value not in choices:
        near = get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"model.{name}={value!r} must be one of {', '.join(choices)}{hint}")


@dataclass
class ModelConfig:
    """What every family has.

    Raises:
        ValueError: from the constructor, for a value that no model can have.
    """

    family: str = "gpt"  # a name in models.MODELS
    vocab_size: int | None = None  # distinct tokens; None: that of the tokenizer

    def __post_init__(self) -> None:
        """Check what all families share."""
        if self.vocab_size is not None:
            _size("vocab_size", self.vocab_size)


@dataclass
class GPTConfig(ModelConfig):
    """A decoder-only Transformer: GPT-2 and Llama are two settings of it.

    Raises:
        ValueError: from the constructor, for a value or a combination that cannot work.
    """

    max_positions: int = 256  # longest sequence, in tokens
    layers: int = 4  # blocks of attention and feed-forward
    width: int = 128  # numbers per token between the blocks
    heads: int = 4  # query heads per layer; each is width / heads wide
    kv_heads: int | None = None  # key and value heads per layer; None: as many as heads
    ffn_width: int | None = None  # hidden units per feed-forward; None: see feed_forward_width
    norm: str = "layernorm"  # layernorm, rmsnorm
    positions: str = "learned"  # learned, sinusoidal, rotary
    activation: str = "gelu"  # gelu, swiglu
    bias: bool = True  # whether projections and layer norms add a bias
    tied_embedding: bool = True  # whether the output head is the token embedding
    dropout: float = 0.0  # probability, on embeddings, attention and both residual branches
    rotary_base: float = 10000.0  # longest rotary wavelength, in tokens / 2 pi
    norm_eps: float = 1e-5  # added to the variance (layernorm) or mean square (rmsnorm)
    init_std: float = 0.02  # of the initial weights; residual outputs get 1/sqrt(2 layers) of it

    def __post_init__(self) -> None:
        """Check every value, then how they fit together."""
        super().__post_init__()
        _choice("family", self.family, ("gpt",))
        _choice("norm", self.norm, NORMS)
        _choice("positions", self.positions, POSITIONS)
        _choice("activation", self.activation, ACTIVATIONS)
        for name in ("max_positions", "layers", "width", "heads"):
            _size(name, getattr(self, name))
        for name in ("kv_heads", "ffn_width"):
            if getattr(self, name) is not None:
                _size(name, getattr(self, name))
        for name in ("bias", "tied_embedding"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"model.{name}={getattr(self, name)!r} must be true or false")
        for name in ("rotary_base", "norm_eps", "init_std"):
            value = _number(name, getattr(self, name))
            if not 0 < value < math.inf:
                raise ValueError(f"model.{name}={value} must be above 0 and finite")
        if not 0 <= _number("dropout", self.dropout) < 1:
            raise ValueError(f"model.dropout={self.dropout} must be at least 0 and below 1")
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
            divisors = [n for n in range(1, self.heads + 1) if self.heads % n == 0]
            low = max((n for n in divisors if n < self.key_value_heads), default=1)
            high = min((n for n in divisors if n > self.key_value_heads), default=self.heads)
            raise ValueError(
                f"model.heads={self.heads} must be a multiple of model.kv_heads={self.kv_heads}; "
                f"nearest model.kv_heads: {', '.join(str(n) for n in sorted({low, high}))}"
            )

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

        gelu: 4 width, in two matrices. swiglu: 8/3 width (Shazeer 2020, section 3) in three
        matrices, rounded up to a multiple of 64.
        """
        if self.ffn_width is not None:
            return self.ffn_width
        if self.activation == "swiglu":
            return math.ceil(8 * self.width / (3 * 64)) * 64
        return 4 * self.width
