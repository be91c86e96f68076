"""What the formulas of a family work out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from models.configs import CausalConfig, TokenModelConfig, WordVectorsConfig

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of matrix products for one sample.

    A product of (m, k) by (k, n) counts 2 m k n; norms, softmax and activations are not counted.
    """

    forward: int
    attention: int = 0
    """Of `forward`, scores and weighted sums: what grows with the square of the length."""
    blocks: int = 0
    """Of `forward`, what activation checkpointing computes a second time: all but the output
    layer."""
    spared: int = 0
    """What the backward pass need not do: the gradient by the input of the first layer, where that
    is data, and by weights that stay as they are."""

    @property
    def backward(self) -> int:
        """The gradient by the weights, or by one factor, and that by the input, or by the other."""
        return 2 * self.forward - self.spared

    @property
    def training(self) -> int:
        """Forward and backward, nothing computed twice."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Pass:
    """A micro-batch, as far as what it keeps for the backward pass depends on it."""

    sequences: int
    length: int
    """Tokens of each; 1 for examples without tokens."""
    half: bool = False
    """Whether activations are bf16, rather than fp32."""
    written_out: bool = False
    """Whether attention is matrix products and a softmax whose weights are kept, rather than a
    kernel that makes them anew in the backward pass."""

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return self.sequences * self.length

    @property
    def number(self) -> int:
        """Bytes of an activation."""
        return 2 if self.half else 4


@dataclass(frozen=True)
class Kept:
    """Bytes that the forward pass of a micro-batch keeps for its backward pass."""

    layers: int
    layer: int
    """Of one layer, if nothing is computed again."""
    layer_input: int
    """Of one layer, if all of it is computed again."""
    outside: int = 0
    """Of what is no layer."""

    def total(self, *, checkpointing: bool) -> int:
        """At most: with checkpointing the inputs of all layers and one layer computed again."""
        if checkpointing and self.layers:
            return self.outside + self.layers * self.layer_input + self.layer
        return self.outside + self.layers * self.layer


@dataclass(frozen=True)
class Cost:
    """What one model costs. Exact: it equals what is counted on the built module."""

    tensors: Mapping[str, Shape]
    """Its parameters by name; one that two layers share comes once."""
    flops: Callable[[int], Flops]
    """To train on one sample that is so many tokens long; an example without tokens has the
    length 1."""
    cache: Callable[[int], int] | None = None
    """Numbers that writing text keeps of a sequence of so many tokens. None: it writes none."""
    kept: Callable[[Pass], Kept] | None = None
    """None: nobody has worked it out."""
    trained: int | None = None
    """Parameters that learn, of a model with an adapter. None: all."""

    @cached_property
    def parameters(self) -> int:
        """Numbers of the model."""
        return sum(map(prod, self.tensors.values()))

    @cached_property
    def largest_layer(self) -> int:
        """The most trained numbers that a single module holds itself, without those in it."""
        own: dict[str, int] = {}
        for name, shape in self.tensors.items():
            module = name.rpartition(".")[0]
            own[module] = own.get(module, 0) + prod(shape)
        return max(own.values())


def vocabulary(config: TokenModelConfig | WordVectorsConfig, vocab_size: int | None) -> int:
    """The tokenizer's vocabulary size, else the config's. Raises ValueError if none is known."""
    V = config.vocab_size if vocab_size is None else vocab_size
    if V is None:
        raise ValueError("model.vocab_size is not set; give it, or vocab_size, to count parameters")
    return V


def output_layer(config: CausalConfig, V: int, D: int) -> tuple[dict[str, Shape], int]:
    """The tensors of the output layer that are not the token table's, and its outputs."""
    if config.value_head:
        return projection("value", D, 1), 1
    tensors: dict[str, Shape] = {} if config.tied_embedding else {"head.weight": (V, D)}
    return tensors, V


def projection(name: str, inputs: int, outputs: int, *, bias: bool = True) -> dict[str, Shape]:
    """The tensors of a matrix product: a matrix (outputs, inputs), and maybe a bias."""
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str, width: int, *, bias: bool = True) -> dict[str, Shape]:
    """The tensors of a norm over `width` numbers."""
    tensors: dict[str, Shape] = {f"{name}.weight": (width,)}
    return tensors | ({f"{name}.bias": (width,)} if bias else {})


def matrices(tensors: Mapping[str, Shape], *prefixes: str) -> int:
    """Numbers of all matrices whose names begin with one of these."""
    return sum(prod(s) for name, s in tensors.items() if len(s) == 2 and name.startswith(prefixes))
