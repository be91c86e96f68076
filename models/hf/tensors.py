"""Which tensors of a Hugging Face model make up each parameter of ours.

D model width, H query heads, G key and value heads, K head width, F feed-forward width,
V vocabulary, P positions.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from models.configs import BertConfig, GPTConfig

PREFIXES = {
    "gpt2": "transformer.",
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), "model."),
    "bert": "bert.",
}
"""By model_type, what stands before the names of all tensors but the head's. A file of the model
without its head lacks it."""
BUFFERS = re.compile(r"(\battn\.(masked_)?bias|rotary_emb\.inv_freq|embeddings\.position_ids)$")
"""Ends of the names of constants that old files hold beside the weights."""
UNUSED = {
    "bert": re.compile(r"^(bert\.pooler|cls\.seq_relationship)\.|^cls\.predictions\.decoder\.")
}
"""By model_type, tensors of heads that ours does not have; those of a tied decoder are known."""
OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""What the first published weights call the numbers of a norm."""


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


def parts(config: GPTConfig | BertConfig, kind: str) -> dict[str, tuple[Part, ...]]:
    """Of each parameter of ours, by its name, their tensors from the first row to the last.

    Args:
        config: of ours.
        kind: the model_type of theirs.
    """
    if isinstance(config, BertConfig):
        return _bert(config)
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


def _bert(config: BertConfig) -> dict[str, tuple[Part, ...]]:
    V, P, D, F = config.vocab_size, config.max_positions, config.width, config.feed_forward_width
    assert V is not None
    embeddings, head = "bert.embeddings", "cls.predictions"
    own: dict[str, tuple[Part, ...]] = {
        "embedding.weight": (Part(f"{embeddings}.word_embeddings.weight", (V, D)),),
        "position_embedding.weight": (Part(f"{embeddings}.position_embeddings.weight", (P, D)),),
        "head.bias": (Part(f"{head}.bias", (V,)),),
    }
    if config.segments:
        name = f"{embeddings}.token_type_embeddings.weight"
        own["segment_embedding.weight"] = (Part(name, (config.segments, D)),)
    norms = {
        "embedding_norm": f"{embeddings}.LayerNorm",
        "head.norm": f"{head}.transform.LayerNorm",
    }
    linears: dict[str, tuple[list[str], int, int]] = {
        "head.dense": ([f"{head}.transform.dense"], D, D)
    }
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"bert.encoder.layer.{layer}"
        norms[f"{ours}.attention.norm"] = f"{theirs}.attention.output.LayerNorm"
        norms[f"{ours}.ffn.norm"] = f"{theirs}.output.LayerNorm"
        qkv = [f"{theirs}.attention.self.{name}" for name in ("query", "key", "value")]
        linears |= {
            f"{ours}.attention.layer.qkv": (qkv, D, D),
            f"{ours}.attention.layer.output": ([f"{theirs}.attention.output.dense"], D, D),
            f"{ours}.ffn.layer.up": ([f"{theirs}.intermediate.dense"], D, F),
            f"{ours}.ffn.layer.down": ([f"{theirs}.output.dense"], F, D),
        }
    for to, norm in norms.items():
        for end in ("weight", "bias"):
            own[f"{to}.{end}"] = (Part(f"{norm}.{end}", (D,)),)
    for to, (names, inputs, outputs) in linears.items():
        own[f"{to}.weight"] = tuple(Part(f"{name}.weight", (outputs, inputs)) for name in names)
        own[f"{to}.bias"] = tuple(Part(f"{name}.bias", (outputs,)) for name in names)
    return own


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


def places(
    names: Iterable[str], wanted: Collection[str], kind: str | None, prefix: str
) -> dict[str, str]:
    """Of each tensor by its full name, the name under which a file holds it.

    Constants are left out, and what ours has no place for by its design.

    Args:
        names: those in the file.
        wanted: full names.
        kind: the model_type, where the tensors are of a module of ours.
        prefix: what a file may have left out of them.
    """
    found = {}
    for name in names:
        full = name
        for old, new in OLD_NORMS.items():
            if full not in wanted:
                full = full.replace(old, new)
        if full not in wanted and prefix + full in wanted:
            full = prefix + full
        unused = UNUSED.get(kind or "")
        if not BUFFERS.search(name) and not (unused and unused.search(full)):
            found[full] = name
    return found
