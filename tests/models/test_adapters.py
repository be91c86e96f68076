"""Updates, bottlenecks, biases and virtual tokens beside weights that stay as they are."""

from dataclasses import replace

import pytest
import torch

import models
from models import cost
from models.adapters import UpdatedLinear, parts_of
from models.cache import KVCache
from models.configs import GPTConfig
from models.configs.gpt import TARGETS
from models.decoding import Sampling, generate
from models.dropout import keyed
from models.formulas.adapters import merged_config
from models.positions import rotary_table, rotate

PLAIN = GPTConfig(vocab_size=50, width=32, layers=2, heads=4, max_positions=24)
LLAMA = replace(
    PLAIN, activation="swiglu", norm="rmsnorm", positions="rotary", bias=False, kv_heads=2
)
ALL = list(TARGETS)
ADAPTED = [
    replace(PLAIN, adapter="lora"),
    replace(PLAIN, adapter="lora", adapter_rank=3, adapter_targets=["key", "output", "up", "down"]),
    replace(LLAMA, adapter="lora", adapter_rank=4, adapter_targets=ALL, adapter_alpha=3.0),
    replace(LLAMA, adapter="bottleneck", adapter_rank=5),
    replace(PLAIN, adapter="bias"),
    replace(PLAIN, adapter="bias", bias=False, qkv_bias=True),
    replace(PLAIN, adapter="prompt", adapter_tokens=5),
    replace(PLAIN, adapter="prefix", adapter_tokens=5),
    replace(LLAMA, adapter="prompt", adapter_tokens=5),
    replace(LLAMA, adapter="prefix", adapter_tokens=5),
]
VIRTUAL = ADAPTED[6:]


def learned(config, seed=0):
    """A model whose updates are not zero."""
    torch.manual_seed(seed)
    model = models.build(config)
    last = {"lora": "b", "bottleneck": "up", "prompt": "vectors", "prefix": "values"}
    for own in parts_of(model).values():
        torch.nn.init.normal_(getattr(own, last[config.adapter]), std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    ("layers", "width", "rank", "published"),
    [
        (12, 768, 8, "0.3M"),  # RoBERTa base, Hu et al. 2021, table 2
        (24, 1024, 8, "0.8M"),  # RoBERTa large
        (48, 1536, 16, "4.7M"),  # DeBERTa XXL
        (96, 12288, 1, "4.7M"),  # GPT-3 175B, table 4
        (96, 12288, 8, "37.7M"),
    ],
)
def test_updates_of_queries_and_values_have_as_many_parameters_as_published(
    layers, width, rank, published
):
    config = GPTConfig(
        vocab_size=50257, layers=layers, width=width, heads=width // 64,
        adapter="lora", adapter_rank=rank,
    )  # fmt: skip
    assert f"{cost.trained_parameters(config) / 1e6:.1f}M" == published


@pytest.mark.parametrize(
    ("adapter", "layers", "width", "tokens", "published"),
    [
        ("prompt", 24, 4096, 5, 20_480),  # T5 XXL, Lester et al. 2021, section 1
        ("prompt", 24, 4096, 100, 409_600),  # table 4
        ("prompt", 24, 1024, 8, 8_192),  # BLOOMZ 560M, in the documentation of peft
        ("prefix", 24, 1024, 20, 983_040),  # T5 large, there, too
    ],
)
def test_virtual_tokens_have_as_many_parameters_as_published(
    adapter, layers, width, tokens, published
):
    config = GPTConfig(
        vocab_size=32128, layers=layers, width=width, heads=width // 64,
        adapter=adapter, adapter_tokens=tokens,
    )  # fmt: skip
    assert cost.trained_parameters(config) == published


@pytest.mark.parametrize(
    "config", [*ADAPTED, PLAIN, *(replace(c, value_head=True) for c in ADAPTED)]
)
def test_parameters_and_those_that_learn_are_counted_as_built(config):
    model = models.build(config)
    found = list(model.parameters())
    assert cost.tensors(config) == {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert cost.parameters(config) == sum(p.numel() for p in found)
    assert cost.trained_parameters(config) == sum(p.numel() for p in found if p.requires_grad)


@pytest.mark.parametrize("config", ADAPTED[:4])
def test_before_training_an_update_changes_nothing(config):
    torch.manual_seed(0)
    model, plain = models.build(config), models.build(replace(config, adapter=None))
    missing, extra = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert all(f".{config.adapter}." in name for name in extra)
    tokens = torch.arange(20).view(2, 10)
    with torch.no_grad():
        assert torch.equal(model(tokens), plain(tokens))


@pytest.mark.parametrize("config", ADAPTED[:3])
def test_merged_weights_compute_the_same_and_unmerged_ones_are_the_old(config):
    model = learned(config)
    plain = models.build(merged_config(config)).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    tokens = torch.arange(20).view(2, 10)
    assert not torch.allclose(model(tokens), plain(tokens), atol=1e-3)
    layers = [(n, own) for n, own in model.named_modules() if isinstance(own, UpdatedLinear)]
    assert layers
    for name, own in layers:
        plain.get_submodule(name).weight.data.copy_(own.whole_weight)
    torch.testing.assert_close(model(tokens), plain(tokens))
    for _, own in layers:
        change = own.whole_weight - own.weight
        torch.testing.assert_close(own.whole_weight - change, own.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", ADAPTED)
def test_text_is_written_with_the_updates(config):
    model = learned(config)
    prompt = torch.arange(10).view(2, 5)
    written = generate(model, prompt, 12, Sampling(temperature=0)).tokens
    logits = model(torch.cat([prompt, written], 1))
    assert torch.equal(logits[:, 4:-1].argmax(-1), written)


@pytest.mark.parametrize("config", ADAPTED)
def test_only_what_is_trained_gets_a_gradient(config):
    model = learned(config)
    tokens = torch.arange(22).view(2, 11)
    targets, mask = tokens[:, 1:], torch.ones(2, 10, dtype=torch.bool)
    model(tokens[:, :-1], targets=targets, loss_mask=mask).backward()
    for name, parameter in model.named_parameters():
        mark = ".bias" if config.adapter == "bias" else f".{config.adapter}."
        learns = mark in f".{name}"
        assert (parameter.grad is not None) == learns, name
        assert not learns or parameter.grad.abs().sum() > 0 or "key" in name or "qkv.bias" in name


@pytest.mark.parametrize("config", VIRTUAL)
def test_virtual_tokens_are_tokens_before_the_text(config):
    """Vectors of a prompt are those of further tokens; keys and values of a prefix are cached."""
    model, P = learned(config), 5
    further = P if config.adapter == "prompt" else 0
    longer = replace(config, adapter=None, vocab_size=50 + further, max_positions=24 + P)
    plain = models.build(longer).eval()
    state = {n: t for n, t in model.state_dict().items() if "pr" not in n.partition(".")[0]}
    if further:
        state["embedding.weight"] = torch.cat([model.embedding.weight, model.prompt.vectors])
    if config.positions == "learned":  # virtual tokens get none
        table = model.position_embedding.weight
        state["position_embedding.weight"] = torch.cat([table.new_zeros(P, 32), table])
    plain.load_state_dict(state)
    text = torch.arange(48).view(2, 24)
    if config.adapter == "prompt":
        virtual = torch.arange(50, 50 + P).expand(2, P)
        expected = plain(torch.cat([virtual, text], 1))[:, P:, :50]
    else:
        cache = KVCache(24 + P)
        for layer in range(2):
            keys = model.prefix.keys[layer].expand(2, -1, -1, -1)
            if config.positions == "rotary":  # the text comes P positions later
                turn = rotary_table(torch.full((P,), P), config)
                keys = rotate(keys.transpose(1, 2), turn).transpose(1, 2)
            cache.extend(layer, keys, model.prefix.values[layer].expand(2, -1, -1, -1))
        cache.length = P
        expected = plain(text, cache)
    torch.testing.assert_close(model(text), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", VIRTUAL)
def test_every_text_of_a_row_or_batch_stands_behind_the_virtual_tokens(config):
    model = learned(config)
    texts = [torch.arange(n, n + size)[None] for n, size in ((3, 7), (20, 4), (30, 9))]
    alone = [model(text)[0] for text in texts]
    packed = torch.cat(texts, 1)
    documents = torch.tensor([[0] * 7 + [1] * 4 + [2] * 9])
    torch.testing.assert_close(
        model(packed, documents=documents)[0], torch.cat(alone), rtol=1e-4, atol=1e-5
    )
    prompts = [text[0].tolist() for text in texts]
    together = generate(model, prompts, 6, Sampling(temperature=0)).tokens
    for row, prompt in zip(together, prompts, strict=True):
        (own,) = generate(model, [prompt], 6, Sampling(temperature=0)).tokens
        assert torch.equal(row, own)


@pytest.mark.parametrize("config", VIRTUAL)
def test_dropout_and_checkpointed_blocks_take_virtual_tokens(config):
    model = learned(replace(config, dropout=0.2))
    tokens = torch.arange(20).view(2, 10)
    found = []
    for checkpointing in (False, True):
        model.train().activation_checkpointing = checkpointing
        model.zero_grad()
        with keyed(torch.tensor([3, 4])):
            model(tokens[:, :-1], targets=tokens[:, 1:]).sum().backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "lore"}, "did you mean lora"),
        ({"adapter": "bias", "bias": False}, "there are none; try model.adapter=lora"),
        ({"adapter": "lora", "adapter_targets": []}, "try model.adapter_targets="),
        ({"adapter": "lora", "adapter_targets": ["query", "query"]}, "each once"),
        ({"adapter": "lora", "adapter_targets": ["q"]}, "model.adapter_targets='q' must be one of"),
        ({"adapter": "lora", "adapter_targets": ["gate"]}, "model.activation=gelu has not"),
        ({"adapter": "prompt", "adapter_tokens": 0}, "must be a whole number of at least 1"),
        ({"adapter": "lora", "adapter_rank": 33}, "must be at most model.width=32"),
        ({"adapter_dropout": 1.0}, "must be at least 0 and below 1"),
    ],
)
def test_what_is_no_adapter_is_refused(settings, message):
    with pytest.raises(ValueError, match=r"model\.a") as refused:
        replace(PLAIN, **settings)
    assert message in str(refused.value)


def in_transformers(ours):
    """Their Llama with the weights of ours, without what adapts it."""
    transformers = pytest.importorskip("transformers")
    from models.hf.architectures import to_theirs
    from models.hf.tensors import parts

    config = replace(ours.config, adapter=None)
    plain = to_theirs(config)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**plain)).eval()
    wanted = theirs.state_dict()
    for name, own in parts(config, plain["model_type"]).items():
        rows = [part.ours[0] for part in own]
        for part, tensor in zip(own, ours.get_parameter(name).data.split(rows), strict=True):
            wanted[part.name].copy_(tensor)
    return theirs


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # so gives it
@pytest.mark.parametrize("config", VIRTUAL[2:])
def test_virtual_tokens_are_those_of_peft(config):
    """Whose text comes P positions later, which turns the keys of a prefix."""
    peft = pytest.importorskip("peft")
    ours, P = learned(config), 5
    if config.adapter == "prompt":
        about, given = peft.PromptTuningConfig(), ours.prompt.vectors
    else:
        turn = rotary_table(torch.full((P,), P), config)
        keys = rotate(ours.prefix.keys.transpose(1, 2), turn).transpose(1, 2)  # (L, G, P, K)
        both = torch.stack([keys, ours.prefix.values], 1)  # (L, 2, G, P, K)
        about, given = peft.PrefixTuningConfig(), both.permute(3, 0, 1, 2, 4).reshape(P, -1)
    about.task_type, about.num_virtual_tokens = "CAUSAL_LM", P
    theirs = peft.get_peft_model(in_transformers(ours), about).eval()
    theirs.prompt_encoder["default"].embedding.weight.data.copy_(given)
    tokens = torch.arange(20).view(2, 10)
    logits = theirs(tokens, attention_mask=torch.ones_like(tokens)).logits[:, -10:]
    torch.testing.assert_close(ours(tokens), logits, rtol=1e-4, atol=1e-5)
    assert cost.trained_parameters(config) == theirs.get_nb_trainable_parameters()[0]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft
def test_updates_are_those_of_peft():
    """On a tiny Llama of transformers, the same numbers in all updates."""
    peft = pytest.importorskip("peft")
    config = replace(LLAMA, adapter="lora", adapter_rank=4, adapter_targets=ALL, adapter_alpha=3.0)
    ours = learned(config)
    theirs = in_transformers(ours)
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    names |= {target: f"{target}_proj" for target in ("gate", "up", "down")}
    lora = peft.LoraConfig(r=4, lora_alpha=3.0, target_modules=list(names.values()))
    theirs = peft.get_peft_model(theirs, lora).eval()
    for place, own in parts_of(ours).items():
        _, layer, part, _, _, target = place.split(".")
        there = "self_attn" if part == "attention" else "mlp"
        prefix = f"base_model.model.model.layers.{layer}.{there}.{names[target]}"
        for matrix in ("a", "b"):
            found = theirs.get_parameter(f"{prefix}.lora_{matrix.upper()}.default.weight")
            found.data.copy_(getattr(own, matrix))
    tokens = torch.arange(20).view(2, 10)
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-5)
    assert cost.trained_parameters(config) == theirs.get_nb_trainable_parameters()[0]
