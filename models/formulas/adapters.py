"""What of an adapted decoder-only Transformer is trained, from its config alone.

D model width, H query heads, G key and value heads, K head width, F feed-forward width, L layers,
P virtual tokens.
"""

from dataclasses import fields, replace

from models.configs import GPTConfig, HFConfig, ModelConfig
from models.configs.gpt import VIRTUAL
from models.formulas.cost import Shape

MARK = ".lora."  # in the name of each parameter of an update
NARROWED = ("attention.output", "ffn.down")  # projections behind which a bottleneck stands
Rows = tuple[int, int]
"""First and last row + 1 of a weight matrix (outputs, inputs)."""


def updated(config: GPTConfig) -> dict[str, dict[str, Rows]]:
    """By the name of a projection in its block, the rows of each target that is in it."""
    if config.adapter != "lora":
        return {}
    D, K, F = config.width, config.head_width, config.feed_forward_width
    queries, keys = config.heads * K, config.key_value_heads * K
    gated = config.activation == "swiglu"
    places: dict[str, dict[str, Rows]] = {
        "attention.qkv": {
            "query": (0, queries),
            "key": (queries, queries + keys),
            "value": (queries + keys, queries + 2 * keys),
        },
        "attention.output": {"output": (0, D)},
        "ffn.up": {"gate": (0, F), "up": (F, 2 * F)} if gated else {"up": (0, F)},
        "ffn.down": {"down": (0, D)},
    }
    chosen = {
        name: {target: rows for target, rows in own.items() if target in config.adapter_targets}
        for name, own in places.items()
    }
    return {name: own for name, own in chosen.items() if own}


def adapter_tensors(config: GPTConfig) -> dict[str, Shape]:
    """What an adapter adds to each layer, by name in its block."""
    D, m = config.width, config.adapter_rank
    tensors: dict[str, Shape] = {}
    if config.adapter == "bottleneck":
        for name in NARROWED:
            own = f"{name}.bottleneck"
            tensors |= {f"{own}.down": (m, D), f"{own}.down_bias": (m,)}
            tensors |= {f"{own}.up": (D, m), f"{own}.up_bias": (D,)}
    inputs = {"attention.output": config.heads * config.head_width}
    inputs["ffn.down"] = config.feed_forward_width
    for name, targets in updated(config).items():
        for target, (start, stop) in targets.items():
            own = f"{name}.lora.{target}"
            tensors |= {f"{own}.a": (m, inputs.get(name, D)), f"{own}.b": (stop - start, m)}
    return tensors


def virtual_tokens(config: GPTConfig) -> int:
    """P, how many tokens stand before each text that nobody has written."""
    return config.adapter_tokens if config.adapter in VIRTUAL else 0


def virtual_tensors(config: GPTConfig) -> dict[str, Shape]:
    """What virtual tokens are, by name in the model."""
    P = virtual_tokens(config)
    if config.adapter == "prompt":
        return {"prompt.vectors": (P, config.width)}
    if config.adapter == "prefix":
        shape = (config.layers, config.key_value_heads, P, config.head_width)
        return {"prefix.keys": shape, "prefix.values": shape}
    return {}


def stays(config: ModelConfig) -> bool:
    """Whether what a model was adapted by has no place in its weights, and remains beside them."""
    return isinstance(config, GPTConfig) and config.adapter in ("bottleneck", *VIRTUAL)


def stands_beside(config: ModelConfig) -> bool:
    """Whether most weights of a model stay as those that it begins from."""
    return isinstance(config, GPTConfig | HFConfig) and config.adapter is not None


def learns(config: ModelConfig, name: str) -> bool:
    """Whether a parameter is trained, by its name."""
    if not stands_beside(config) or name.startswith("value."):
        return True
    assert isinstance(config, GPTConfig | HFConfig)
    mark = ".bias" if config.adapter == "bias" else f".{config.adapter}."
    return mark in f".{name}"


def merged_config(config: ModelConfig) -> ModelConfig:
    """That of the plain model which an adapted one is once its updates are in its weights; as it
    is where what adapts it `stays`.
    """
    if not isinstance(config, GPTConfig | HFConfig) or stays(config):
        return config
    names = (own.name for own in fields(config) if own.name.startswith("adapter"))
    default = type(config)()
    return replace(config, **{name: getattr(default, name) for name in names})
