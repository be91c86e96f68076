"""A model taken apart: its parameters and what every part of it makes, with their shapes.

All of it is read off the built module, on the meta device, where a forward pass has shapes and no
numbers: a family needs nothing of its own here. Shapes are told twice, in numbers and in letters:

B batch, T time (tokens), D model width, H query heads, G key and value heads, K head width,
F feed-forward width, V vocabulary, P positions, N inputs, C outputs.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.configs import FeatureModelConfig, ModelConfig, WordVectorsConfig
from models.families import build

Shape = tuple[int, ...]

LETTERS = {
    "D": ("width", "hidden_size", "n_embd", "d_model"),
    "V": ("vocab_size",),
    "F": ("feed_forward_width", "intermediate_size", "d_ff"),
    "H": ("heads", "num_attention_heads", "n_head", "num_heads"),
    "G": ("key_value_heads", "num_key_value_heads"),
    "K": ("head_width", "head_dim", "d_kv"),
    "P": ("max_positions",),
    "N": ("inputs",),
    "C": ("outputs",),
}
"""The settings that a letter stands for, in ours or in those of transformers."""
OUTER = ("vocab_size", "max_positions", "inputs", "outputs")
"""Settings that may have any value, whatever the others are."""
WORDS = {
    **{"B": "samples", "T": "tokens of each", "D": "width", "V": "tokens of the vocabulary"},
    **{"F": "feed-forward", "H": "heads", "G": "key and value heads", "K": "per head"},
    **{"P": "positions", "N": "features", "C": "outputs"},
}
TRACED = "traced"
"""Attribute of a module: methods of it whose tensors are told, too, with names for what each
returns; without any, what goes in is told by its own names, and what comes out by the method's."""
BESIDE = "for "
"""Begins the kind of what goes into a traced method, side by side."""
RESIDUAL = "residual"
"""Attribute of a module that names its parts before which the input is kept; see Block."""


@dataclass(frozen=True)
class Row:
    """A parameter, or something that the forward pass makes."""

    name: str
    """Its place in the module."""
    symbols: str
    """The shape in letters: (B, T, D)."""
    shape: Shape
    kind: str = ""
    """Class of the module that makes it."""
    repeated: int = 1
    """Of how many layers, whose number is * in the name."""

    @property
    def numbers(self) -> int:
        """In one of them."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Description:
    """A model, taken apart."""

    letters: dict[str, int]
    """What each letter stands for here."""
    parameters: tuple[Row, ...]
    activations: tuple[Row, ...]
    """In the order of the forward pass."""
    forward_flops: int
    """Of the matrix products of one forward pass over all B sequences."""
    tree: "Part"


@dataclass(frozen=True)
class Part:
    """A module with what it holds, for a drawing."""

    name: str
    kind: str
    symbols: str
    """Shape of what it makes; empty if it makes no tensor."""
    parts: "tuple[Part, ...]" = ()
    repeated: int = 1
    around: tuple[int, ...] = ()
    """Places of parts before which the input is kept, to be added behind the next part."""


def describe(config: ModelConfig, batch: int, length: int) -> Description:
    """Take a model apart, as it is for `batch` samples of `length` tokens.

    Raises:
        ValueError: the model is one that can't be built, or not for so long samples.
    """
    with torch.device("meta"):
        model = build(config).eval()
    letters = _letters(model, config)
    # A twin whose outer sizes are no other size of it tells what depends on which of them.
    taken = {*letters.values(), batch, length}
    primes = (n for n in range(10007, 99991) if n not in taken and _is_prime(n))
    outer: dict[str, Any] = {f.name: next(primes) for f in fields(config) if f.name in OUTER}
    probe = replace(config, **outer)
    B = next(primes)
    # Not many tokens: a recurrent network takes them one by one.
    few = (n for n in range(211, 10007) if n not in taken and _is_prime(n))
    T = next(few) if "max_positions" in outer else 1
    with torch.device("meta"):
        twin = build(probe).eval()
    named = {"B": B, "T": T, **_letters(twin, probe)}
    seen, _ = _run(twin, probe, B, T)
    real, flops = _run(model, config, batch, length)
    activations = [
        Row(name, symbols(shape, named), there, kind)
        for (name, kind, shape), (_, _, there) in zip(seen, real, strict=True)
    ]
    parameters = [
        Row(name, symbols(tuple(other.shape), named), tuple(own.shape))
        for (name, own), other in zip(model.named_parameters(), twin.parameters(), strict=True)
    ]
    return Description(
        {"B": batch, "T": length, **letters},
        tuple(_folded(parameters)),
        tuple(_folded(activations)),
        flops,
        _tree(type(model).__name__, "", model, activations),
    )


def symbols(shape: Shape, letters: dict[str, int]) -> str:
    """A shape in letters; a size that none of them explains stays a number."""
    return f"({', '.join(_symbol(size, letters) for size in shape)})"


def _symbol(size: int, letters: dict[str, int]) -> str:
    for letter, value in letters.items():
        if value == size:
            return letter
    get = letters.get
    H, K, D, F = get("H", 0), get("K", 0), get("D", 0), get("F", 0)
    G = get("G", H)
    made = {
        "3D": 3 * D if G == H and H * K == D else 0,
        "(H+2G)K": (H + 2 * G) * K,
        "HK": H * K,
        "GK": G * K,
        "2F": 2 * F,
        "4D": 4 * D,
        "BT": get("B", 0) * get("T", 0),
    }
    return next((name for name, value in made.items() if value == size), str(size))


def _letters(model: nn.Module, config: ModelConfig) -> dict[str, int]:
    theirs: Any = getattr(getattr(model, "theirs", None), "config", None)
    found = {}
    for letter, names in LETTERS.items():
        for name in names:
            value = getattr(config, name, None) or getattr(theirs, name, None)
            if isinstance(value, int) and letter not in found:
                found[letter] = value
    if {"D", "H"} <= found.keys():
        found.setdefault("K", found["D"] // found["H"])
    if "F" not in found and "D" in found and theirs is not None:
        found["F"] = 4 * found["D"]
    if found.get("G") == found.get("H"):
        found.pop("G", None)
    return found


def _run(
    model: nn.Module, config: ModelConfig, B: int, T: int
) -> tuple[list[tuple[str, str, Shape]], int]:
    """What a forward pass makes, in its order: name, kind and shape; and its operations."""
    made: list[tuple[str, str, Shape]] = []

    def note(name: str, kind: str, value: object) -> None:
        if isinstance(value, Tensor):
            made.append((name, kind, tuple(value.shape)))
        elif isinstance(value, tuple) and value and isinstance(value[0], Tensor):
            made.append((name, kind, tuple(value[0].shape)))
        elif isinstance(getattr(value, "logits", None), Tensor):
            made.append((name, kind, tuple(value.logits.shape)))  # type: ignore[attr-defined]

    def noting(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if getattr(module, "p", None) != 0:  # dropout that is off makes nothing
            note(name, type(module).__name__, output)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(partial(noting, name)).remove)
            for method, results in getattr(module, TRACED, {}).items():
                plain = getattr(module, method)
                setattr(module, method, _traced(plain, results, f"{name}.", note))
                hooks.callback(delattr, module, method)
        hooks.enter_context(torch.no_grad())
        hooks.enter_context(torch.device("meta"))
        # The kernels for attention have no count of operations on every device.
        hooks.enter_context(sdpa_kernel(SDPBackend.MATH))
        counter = hooks.enter_context(FlopCounterMode(display=False))
        output = model(*_inputs(model, config, B, T))
    note("outputs" if isinstance(config, FeatureModelConfig) else "logits", "", output)
    return made, int(counter.get_total_flops())


def _traced(
    method: Callable[..., Any],
    results: Sequence[str],
    where: str,
    note: Callable[[str, str, object], None],
) -> Callable[..., Any]:
    """The method, which notes its tensors by the names that it has for them."""
    names = inspect.signature(method).parameters

    @wraps(method)
    def noting(*given: Any, **more: Any) -> Any:
        if results:
            result = method(*given, **more)
            for name, value in zip(results, result, strict=True):
                note(where + name, BESIDE + method.__name__, value)
            return result
        tensors = {n: x for n, x in zip(names, given, strict=False) if isinstance(x, Tensor)}
        for name, value in tensors.items():
            note(where + name, BESIDE + method.__name__, value)
        if {"q", "k"} <= tensors.keys():
            q, k = tensors["q"], tensors["k"]
            scores = q.new_empty((*q.shape[:3], k.shape[2]))
            note(f"{where}scores, weights", "in stretches", scores)
        result = method(*given, **more)
        note(where + method.__name__, "", result)
        return result

    return noting


def _inputs(model: nn.Module, config: ModelConfig, B: int, T: int) -> list[Tensor]:
    """A batch without numbers: tokens for each text that the model asks for."""
    if isinstance(config, FeatureModelConfig):
        assert config.inputs is not None  # nothing could be built without
        return [torch.zeros(B, config.inputs)]
    if isinstance(config, WordVectorsConfig):  # each word with T neighbours, and a negative each
        words = torch.zeros(B, T, dtype=torch.int64)
        return [words[:, 0], words, words.bool(), words[..., None]]
    asked = inspect.signature(model.forward).parameters.values()
    tokens = torch.zeros(B, T, dtype=torch.int64)
    return [tokens for each in asked if each.default is inspect.Parameter.empty]


def _folded(rows: Sequence[Row]) -> Iterator[Row]:
    """Rows of layers that are alike, as one; the place of the first in the order."""
    alike: dict[tuple[str, Shape, str], list[Row]] = {}
    for row in rows:
        key = (re.sub(r"\.\d+(?=\.|$)", ".*", row.name), row.shape, row.kind)
        alike.setdefault(key, []).append(row)
    for (name, shape, kind), own in alike.items():
        shown = name if len(own) > 1 else own[0].name
        yield Row(shown, own[0].symbols, shape, kind, len(own))


def _tree(name: str, path: str, module: nn.Module | None, rows: Sequence[Row]) -> Part:
    """A module with the parts that make something, in their order; layers alike are one."""
    prefix = f"{path}." if path else ""
    inside: dict[str, nn.Module | None] = {}
    for row in rows:
        if row.name.startswith(prefix) and row.name != path:
            child, _, rest = row.name.removeprefix(prefix).partition(".")
            own = getattr(module, child, None)
            if isinstance(own, nn.ModuleList):
                number = rest.partition(".")[0]
                inside.setdefault(f"{child}.{number}", own[int(number)])
            else:
                inside.setdefault(child, own if isinstance(own, nn.Module) else None)
    parts: list[Part] = []
    kept: list[int] = []
    for child, held in inside.items():
        title = child.partition(".")[0]
        new = _tree(title, prefix + child, held, rows)
        last = parts[-1] if parts else None
        if last is not None and replace(last, repeated=1) == new:
            parts[-1] = replace(last, repeated=last.repeated + 1)
            continue
        if child in getattr(module, RESIDUAL, ()):
            kept.append(len(parts))
        parts.append(new)
    own = next((row for row in rows if row.name == path), None)
    kind = "" if own is None else own.kind
    if module is not None:
        kind = type(module).__name__
    return Part(name, kind, own.symbols if own else "", tuple(parts), around=tuple(kept))


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
