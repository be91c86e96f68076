"""config.json of a Hugging Face model <-> the config of ours, where ours computes the same.

GPT-2 and the family of Llama (Llama, SmolLM2, Mistral, Qwen2, Qwen3) are settings of `GPTConfig`,
BERT with its head for masked tokens is one of `BertConfig`, which is read and not written. What has
a setting that ours can't express is `NotOurs`, and can be wrapped instead.
"""

from collections.abc import Mapping
from typing import Any

from models.configs import BertConfig, GPTConfig, HFConfig, TokenModelConfig

Plain = Mapping[str, Any]

_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
}
_QWEN = _LLAMA | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "max_window_layers": 28,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
    },
    "bert": {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
        "is_decoder": False,
        "add_cross_attention": False,
    },
    "llama": _LLAMA | {"attention_bias": False, "mlp_bias": False},
    "mistral": _LLAMA
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"attention_bias": False, "head_dim": 128},
}
"""What a config.json means that does not say so: the defaults of transformers, by model type."""
HEADS = {"gpt2": "GPT2LMHeadModel"} | {
    name: f"{name.title()}ForCausalLM" for name in ("llama", "mistral", "qwen2", "qwen3")
}
"""The class of transformers that predicts text with each."""


GELUS = {"gelu_pytorch_tanh": "gelu", "gelu_new": "gelu", "gelu": "gelu_erf"}
"""Theirs of GPT-2, and ours; where two are one, the last is the usual."""
SEQ2SEQ = ("t5", "mt5", "marian", "bart", "mbart", "pegasus")
MASKED_HEADS = ("MaskedLM", "ForPreTraining")
"""How the names of their classes end that predict masked tokens."""
LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""Where a config.json tells the longest sequence."""
NO_LENGTH = 2048
"""Longest sequence, in tokens, of an architecture that sets none."""


class NotOurs(ValueError):
    """A model that computes something which ours does not."""


def to_ours(plain: Plain) -> GPTConfig | BertConfig:
    """The config of ours that computes what the model of a config.json does.

    Raises:
        NotOurs: there is none; says which setting is the reason.
        ValueError: a value makes no sense.
    """
    kind = str(plain.get("model_type"))
    if kind not in DEFAULTS:
        raise NotOurs(f"model_type={kind} is none of {', '.join(DEFAULTS)}")
    own = DEFAULTS[kind] | {key: value for key, value in plain.items() if key in DEFAULTS[kind]}
    if kind == "bert":
        return _of_bert(own, plain)
    return _of_gpt2(own) if kind == "gpt2" else _of_llama(kind, own, plain)


def config_of(plain: Plain) -> TokenModelConfig:
    """The config of ours for a config.json: that of our own module if it fits, else of a wrapper.

    Raises:
        ValueError: it names no architecture, or a value makes no sense.
    """
    try:
        return to_ours(plain)
    except NotOurs:
        pass
    kind, heads = plain.get("model_type"), plain.get("architectures") or [""]
    if not isinstance(kind, str):
        raise ValueError("it has no model_type")
    task = "causal"
    if plain.get("is_encoder_decoder") or kind in SEQ2SEQ:
        task = "seq2seq"
    elif str(heads[0]).endswith(MASKED_HEADS):
        task = "masked"
    longest = (plain[name] for name in LENGTHS if isinstance(plain.get(name), int))
    return HFConfig(
        vocab_size=plain.get("vocab_size"),
        max_positions=next(longest, NO_LENGTH),
        task=task,
        model_type=kind,
        settings=dict(plain),
    )


def _of_gpt2(own: Plain) -> GPTConfig:
    for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        _refuse_unless(own, name, (DEFAULTS["gpt2"][name],))
    _refuse_unless(own, "activation_function", tuple(GELUS))
    drops = {float(own[name]) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    return GPTConfig(
        vocab_size=own["vocab_size"],
        max_positions=own["n_positions"],
        layers=own["n_layer"],
        width=own["n_embd"],
        heads=own["n_head"],
        ffn_width=own["n_inner"],
        activation=GELUS[own["activation_function"]],
        tied_embedding=own["tie_word_embeddings"],
        norm_eps=own["layer_norm_epsilon"],
        dropout=drops.pop() if len(drops) == 1 else 0.0,
    )


def _of_bert(own: Plain, plain: Plain) -> BertConfig:
    [head, *_] = plain.get("architectures") or [""]
    if not str(head).endswith(MASKED_HEADS):
        raise NotOurs(f"{head or 'a model without a head'} tells no masked tokens")
    for name, known in (
        *(("hidden_act", "gelu"), ("tie_word_embeddings", True), ("is_decoder", False)),
        ("add_cross_attention", False),
    ):
        _refuse_unless(own, name, (known,))
    if plain.get("position_embedding_type", "absolute") != "absolute":
        raise NotOurs(f"position_embedding_type={plain['position_embedding_type']} is not absolute")
    drops = {float(own[name]) for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")}
    return BertConfig(
        vocab_size=own["vocab_size"],
        max_positions=own["max_position_embeddings"],
        layers=own["num_hidden_layers"],
        width=own["hidden_size"],
        heads=own["num_attention_heads"],
        ffn_width=own["intermediate_size"],
        segments=own["type_vocab_size"],
        dropout=drops.pop() if len(drops) == 1 else 0.0,
        norm_eps=own["layer_norm_eps"],
    )


def _of_llama(kind: str, own: Plain, plain: Plain) -> GPTConfig:
    _refuse_unless(own, "hidden_act", ("silu", "swish"))
    if kind == "llama":
        _refuse_unless(own, "mlp_bias", (own["attention_bias"],))
    if kind == "qwen3":
        _refuse_unless(own, "attention_bias", (False,))
    shared = own["hidden_size"] // own["num_attention_heads"]
    return GPTConfig(
        vocab_size=own["vocab_size"],
        max_positions=own["max_position_embeddings"],
        layers=own["num_hidden_layers"],
        width=own["hidden_size"],
        heads=own["num_attention_heads"],
        head_dim=own["head_dim"] if own["head_dim"] != shared else None,
        kv_heads=own["num_key_value_heads"],
        ffn_width=own["intermediate_size"],
        norm="rmsnorm",
        positions="rotary",
        activation="swiglu",
        bias=kind == "llama" and own["attention_bias"],
        qkv_bias=True if kind == "qwen2" else None,
        qk_norm=kind == "qwen3",
        tied_embedding=own["tie_word_embeddings"],
        norm_eps=own["rms_norm_eps"],
        **_rotary_to_ours(plain),
        **_window_to_ours(kind, own, plain),
    )


def _rotary_to_ours(plain: Plain) -> dict[str, Any]:
    """Rotary settings; transformers 5 has them in rope_parameters, 4 in two places."""
    said = dict(plain.get("rope_parameters") or plain.get("rope_scaling") or {})
    base = float(said.get("rope_theta") or plain.get("rope_theta") or 10000.0)
    kind = said.get("rope_type", said.get("type", "default"))
    found: dict[str, Any] = {"rotary_base": base}
    if kind == "default":
        return found
    if kind not in ("linear", "llama3"):
        raise NotOurs(f"rope_type={kind} is none of default, linear, llama3")
    found |= {"rotary_scaling": kind, "rotary_factor": float(said["factor"])}
    if kind == "llama3":
        for name, ours in (("low_freq_factor", 1), ("high_freq_factor", 4)):
            _refuse_unless(said, name, (ours,))
        found["rotary_trained_positions"] = said["original_max_position_embeddings"]
    return found


def _window_to_ours(kind: str, own: Plain, plain: Plain) -> dict[str, Any]:
    if kind == "mistral":
        window, slides = own["sliding_window"], {True}
    else:
        window, layers = plain.get("sliding_window"), range(own["num_hidden_layers"])
        kinds = plain.get("layer_types")
        slides = (
            {each != "full_attention" for each in kinds}
            if kinds
            else {layer >= own.get("max_window_layers", 0) for layer in layers}
        )
        if not own.get("use_sliding_window", False):
            slides = {False}
    if window is None or slides == {False}:
        return {}
    if len(slides) > 1:
        raise NotOurs("some layers have a sliding window and others have none")
    return {"mask": "sliding_window", "window": window}


def _refuse_unless(own: Plain, name: str, known: tuple[object, ...]) -> None:
    if own.get(name) not in known:
        raise NotOurs(f"{name}={own.get(name)} is not {' or '.join(map(str, known))}")


def to_theirs(config: GPTConfig) -> dict[str, Any]:
    """The config.json of the Hugging Face model that computes what ours does.

    Raises:
        NotOurs: there is none; says which setting is the reason.
    """
    if config.score != "dot":
        raise NotOurs(f"model.score={config.score} is for study, and theirs is dot")
    if config.value_head:
        raise NotOurs("model.value_head=true tells values, and theirs tells the next token")
    if config.adapter is not None:
        raise NotOurs(f"model.adapter={config.adapter} has no place in their weights")
    if config.sees_target:
        raise NotOurs(f"model.mask={config.mask} is for study, and theirs is causal")
    if config.positions == "rotary":
        return _to_llama(config)
    for name, ours in (
        *(("norm", "layernorm"), ("positions", "learned"), ("bias", True)),
        *(("qk_norm", False), ("mask", "causal")),
    ):
        if getattr(config, name) != ours:
            raise NotOurs(f"model.{name}={getattr(config, name)} has no place in GPT-2: {ours}")
    if config.activation not in GELUS.values():
        raise NotOurs(f"model.activation={config.activation} has no place in GPT-2: gelu")
    if config.key_value_heads != config.heads or config.heads * config.head_width != config.width:
        raise NotOurs("model.kv_heads and model.head_dim have no place in GPT-2; set both to null")
    if config.qkv_bias is False:
        raise NotOurs("model.qkv_bias=false has no place in GPT-2")
    return _described("gpt2") | {
        "vocab_size": config.vocab_size,
        "n_positions": config.max_positions,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.ffn_width,
        "activation_function": {ours: theirs for theirs, ours in GELUS.items()}[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied_embedding,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
    }


def _to_llama(config: GPTConfig) -> dict[str, Any]:
    for name, ours in (("norm", "rmsnorm"), ("activation", "swiglu")):
        if getattr(config, name) != ours:
            raise NotOurs(
                f"model.{name}={getattr(config, name)} with model.positions=rotary has no place "
                f"in the family of Llama: {ours}"
            )
    own_bias = config.qkv_bias is not None and config.qkv_bias != config.bias
    kind = "llama"
    if config.mask == "sliding_window":
        kind = "mistral"
    if own_bias and config.qkv_bias:
        kind = "qwen2"
    if config.qk_norm:
        kind = "qwen3"
    fits = {
        "llama": not own_bias,
        "mistral": not own_bias and not config.bias,
        "qwen2": True,
        "qwen3": not own_bias and not config.bias,
    }
    if not fits[kind]:
        raise NotOurs(
            f"model.bias={config.bias} with model.qkv_bias={config.qkv_bias}, model.qk_norm="
            f"{config.qk_norm} and model.mask={config.mask} is no model of the family of Llama"
        )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rotary_base}
    if config.rotary_scaling != "none":
        rope |= {"rope_type": config.rotary_scaling, "factor": config.rotary_factor}
    if config.rotary_scaling == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope["original_max_position_embeddings"] = config.rotary_trained_positions
    own: dict[str, Any] = {}
    if kind == "llama":
        own = {"attention_bias": config.bias, "mlp_bias": config.bias}
    slides = config.mask == "sliding_window"
    if kind == "mistral":
        own = {"sliding_window": config.window_width}
    elif slides:
        own = {
            "use_sliding_window": True,
            "sliding_window": config.window_width,
            "max_window_layers": 0,
        }
    return (
        _described(kind)
        | {
            "vocab_size": config.vocab_size,
            "hidden_size": config.width,
            "intermediate_size": config.feed_forward_width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.key_value_heads,
            "head_dim": config.head_width,
            "hidden_act": "silu",
            "max_position_embeddings": config.max_positions,
            "rms_norm_eps": config.norm_eps,
            "tie_word_embeddings": config.tied_embedding,
            "rope_parameters": rope,
            # Where transformers 4, vLLM and llama.cpp look for them.
            "rope_theta": config.rotary_base,
        }
        | ({"rope_scaling": rope} if config.rotary_scaling != "none" else {})
        | own
    )


def _described(kind: str) -> dict[str, Any]:
    return {"architectures": [HEADS[kind]], "model_type": kind, "dtype": "float32"}
