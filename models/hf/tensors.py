"""Which tensors of a Hugging Face model make up each parameter of ours.

D model width, H query heads, G key and value heads, K head width, F feed-forward width,
V vocabulary, P positions.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from models.configs import GPTConfig

PREFIXES = {
    "gpt2": "transformer.",
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), "model."),
}
"""By model_type, what stands before the names of all tensors but the head's. A file of the model
without its head lacks it."""
BUFFERS = re.compile(r"(\battn\.(masked_)?bias|rotary_emb\.inv_freq)$")
"""Ends of the names of constants that old files hold beside the weights."""


@dataclass(frozen=True)
class Part:
    """One of their tensors, which is all of a parameter of ours or a stretch of its rows."""

    name: str
    shape: tuple[int, ...]
    """As it is stored."""
    transposed: bool = False
    """Whether it is stored with inputs first, as GPT-2 has its projections."""

    @property
    def ours(self) -> tuple[int, ...]:
        """The shape of its rows in the parameter of ours."""
        return self.shape[::-1] if self.transposed else self.shape


def parts(config: GPTConfig, kind: str) -> dict[str, tuple[Part, ...]]:
    """Of each parameter of ours, by its name, their tensors from the first row to the last.

    Args:
        config: of ours.
        kind: the model_type of theirs.
    """
    found = _gpt2(config) if kind == "gpt2" else _llama(config)
    V, D = config.vocab_size, config.width
    assert V is not None
    if not config.tied_embedding:
        found["head.weight"] = (Part("lm_head.weight", (V, D)),)
    return found


def _gpt2(config: GPTConfig) -> dict[str, tuple[Part, ...]]:
    V, P, D, F = config.vocab_size, config.max_positions, config.width, config.feed_forward_width
    assert V is not None
    own = {
        "embedding.weight": Part("transformer.wte.weight", (V, D)),
        "position_embedding.weight": Part("transformer.wpe.weight", (P, D)),
        "norm.weight": Part("transformer.ln_f.weight", (D,)),
        "norm.bias": Part("transformer.ln_f.bias", (D,)),
    }
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        for to, norm in (("attention_norm", "ln_1"), ("ffn_norm", "ln_2")):
            for end in ("weight", "bias"):
                own[f"{ours}.{to}.{end}"] = Part(f"{theirs}.{norm}.{end}", (D,))
        for to, linear, inputs, outputs in (
            ("attention.qkv", "attn.c_attn", D, 3 * D),
            ("attention.output", "attn.c_proj", D, D),
            ("ffn.up", "mlp.c_fc", D, F),
            ("ffn.down", "mlp.c_proj", F, D),
        ):
            name = f"{theirs}.{linear}"
            own[f"{ours}.{to}.weight"] = Part(f"{name}.weight", (inputs, outputs), True)
            own[f"{ours}.{to}.bias"] = Part(f"{name}.bias", (outputs,))
    return {name: (part,) for name, part in own.items()}


def _llama(config: GPTConfig) -> dict[str, tuple[Part, ...]]:
    D, F, K = config.width, config.feed_forward_width, config.head_width
    H, G, V = config.heads, config.key_value_heads, config.vocab_size
    assert V is not None
    own: dict[str, tuple[Part, ...]] = {
        "embedding.weight": (Part("model.embed_tokens.weight", (V, D)),),
        "norm.weight": (Part("model.norm.weight", (D,)),),
    }
    qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        norms = [
            ("attention_norm", "input_layernorm", D),
            ("ffn_norm", "post_attention_layernorm", D),
        ]
        if config.qk_norm:
            norms += [(f"attention.{n}_norm", f"self_attn.{n}_norm", K) for n in "qk"]
        for to, norm, width in norms:
            own[f"{ours}.{to}.weight"] = (Part(f"{theirs}.{norm}.weight", (width,)),)
        for to, linears, inputs, bias in (
            (
                "attention.qkv",
                {"self_attn.q_proj": H * K, "self_attn.k_proj": G * K, "self_attn.v_proj": G * K},
                D,
                qkv_bias,
            ),
            ("attention.output", {"self_attn.o_proj": D}, H * K, config.bias),
            ("ffn.up", {"mlp.gate_proj": F, "mlp.up_proj": F}, D, config.bias),
            ("ffn.down", {"mlp.down_proj": D}, F, config.bias),
        ):
            own[f"{ours}.{to}.weight"] = tuple(
                Part(f"{theirs}.{name}.weight", (rows, inputs)) for name, rows in linears.items()
            )
            if bias:
                own[f"{ours}.{to}.bias"] = tuple(
                    Part(f"{theirs}.{name}.bias", (rows,)) for name, rows in linears.items()
                )
    return own


def places(names: Iterable[str], wanted: Collection[str], prefix: str) -> dict[str, str]:
    """Of each tensor by its full name, the name under which a file holds it; no constants.

    Args:
        names: those in the file.
        wanted: full names.
        prefix: what a file may have left out of them.
    """
    return {
        prefix + name if name not in wanted and prefix + name in wanted else name: name
        for name in names
        if not BUFFERS.search(name)
    }
