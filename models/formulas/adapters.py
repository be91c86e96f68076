"""What of an adapted decoder-only Transformer is trained, from its config alone.

D model width, H query heads, G key and value heads, K head width, F feed-forward width.
"""

from dataclasses import fields, replace

from models.configs import GPTConfig, ModelConfig
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


def merged_config(config: ModelConfig) -> ModelConfig:
    """That of the plain model which an adapted one is once its updates are in its weights; a
    bottleneck has no place there, and stays.
    """
    if not isinstance(config, GPTConfig) or config.adapter == "bottleneck":
        return config
    names = (own.name for own in fields(config) if own.name.startswith("adapter"))
    default = GPTConfig()
    return replace(config, **{name: getattr(default, name) for name in names})
