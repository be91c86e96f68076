import itertools
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional

from models import build
from models.configs import GPTConfig
from models.positions import sinusoidal_positions

GPT2 = GPTConfig(vocab_size=61, max_positions=16, layers=2, width=32, heads=4, init_std=0.2)
LLAMA = replace(
    GPT2, norm="rmsnorm", positions="rotary", activation="swiglu", bias=False, kv_heads=2
)
VARIANTS = [
    replace(GPT2, norm=norm, positions=positions, kv_heads=kv_heads)
    for (norm, positions), kv_heads in zip(
        itertools.product(("layernorm", "rmsnorm"), ("learned", "sinusoidal", "rotary")),
        (4, 2, 1, 4, 2, 1),
        strict=True,
    )
]
NAMES = [f"{config.norm}-{config.positions}" for config in VARIANTS]


def tokens_for(config, B=2, T=None):
    return torch.randint(config.vocab_size, (B, config.max_positions if T is None else T))


def randomise(module):
    """Give every parameter, norms and biases too, a value that a mistake would show."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))


def test_logits_equal_those_of_gpt2_on_hugging_face():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ours = build(GPT2).eval()
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=61, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    ).eval()
    randomise(theirs)
    source, target = theirs.transformer, ours
    pairs = [
        (source.wte, target.embedding),
        (source.wpe, target.position_embedding),
        (source.ln_f, target.norm),
    ]
    for h, block in zip(source.h, target.blocks, strict=True):
        pairs += [(h.ln_1, block.attention_norm), (h.ln_2, block.ffn_norm)]
        pairs += [(h.attn.c_attn, block.attention.qkv), (h.attn.c_proj, block.attention.output)]
        pairs += [(h.mlp.c_fc, block.ffn.up), (h.mlp.c_proj, block.ffn.down)]
    with torch.no_grad():
        for theirs_part, ours_part in pairs:
            weight = theirs_part.weight
            is_conv1d = type(theirs_part).__name__ == "Conv1D"  # stored inputs first
            ours_part.weight.copy_(weight.T if is_conv1d else weight)
            if getattr(ours_part, "bias", None) is not None:
                ours_part.bias.copy_(theirs_part.bias)
    tokens = tokens_for(GPT2, B=3)
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_equal_those_of_llama_on_hugging_face(kv_heads, tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = replace(LLAMA, kv_heads=kv_heads, tied_embedding=tied, ffn_width=48, norm_eps=1e-6)
    ours = build(config).eval()
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            max_position_embeddings=16,
            rms_norm_eps=1e-6,
            tie_word_embeddings=tied,
        )
    ).eval()
    randomise(theirs)
    source = theirs.model
    with torch.no_grad():
        ours.embedding.weight.copy_(source.embed_tokens.weight)
        ours.norm.weight.copy_(source.norm.weight)
        if not tied:
            ours.head.weight.copy_(theirs.lm_head.weight)
        for layer, block in zip(source.layers, ours.blocks, strict=True):
            attn, mlp = layer.self_attn, layer.mlp
            qkv = (attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight)
            block.attention.qkv.weight.copy_(torch.cat(qkv))
            block.attention.output.weight.copy_(attn.o_proj.weight)
            block.ffn.up.weight.copy_(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)))
            block.ffn.down.weight.copy_(mlp.down_proj.weight)
            block.attention_norm.weight.copy_(layer.input_layernorm.weight)
            block.ffn_norm.weight.copy_(layer.post_attention_layernorm.weight)
    tokens = tokens_for(config, B=3)
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_sinusoidal_positions_are_learned_ones_that_happen_to_be_sines():
    torch.manual_seed(0)
    learned = build(replace(GPT2, tied_embedding=False)).eval()
    sinusoidal = build(replace(GPT2, tied_embedding=False, positions="sinusoidal")).eval()
    state = learned.state_dict()
    del state["position_embedding.weight"]
    sinusoidal.load_state_dict(state)
    with torch.no_grad():
        learned.embedding.weight.mul_(32**0.5)  # Vaswani et al. 2017, section 3.4
        learned.position_embedding.weight.copy_(sinusoidal_positions(torch.arange(16), 32))
    tokens = tokens_for(GPT2)
    torch.testing.assert_close(sinusoidal(tokens), learned(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", VARIANTS, ids=NAMES)
def test_a_token_changes_no_logits_before_it(config):
    model = build(config).eval()
    tokens = tokens_for(config)
    before = model(tokens)
    for t in (1, 7, 15):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1) % config.vocab_size
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.isclose(after[:, t:], before[:, t:]).all(-1).any()


@pytest.mark.parametrize("config", VARIANTS, ids=NAMES)
def test_the_order_of_earlier_tokens_matters(config):
    model = build(config).eval()
    tokens = torch.tensor([[3, 5, 8], [5, 3, 8]])
    first, second = model(tokens)[:, -1]
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_checkpointed_activations_give_the_same_gradients_with_dropout(config):
    torch.manual_seed(0)
    config = replace(config, dropout=0.3)
    model = build(config).train()
    tokens = tokens_for(config)
    gradients, losses, saved_bytes = [], [], []
    for checkpointing in (False, True):
        model.activation_checkpointing = checkpointing
        model.zero_grad()
        torch.manual_seed(1)
        sizes = []

        def count(tensor, sizes=sizes):
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()
        losses.append(loss.item())
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        saved_bytes.append(sum(sizes))
    assert losses[0] == losses[1]
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)
    assert saved_bytes[1] < saved_bytes[0] / 2


def test_dropout_is_active_in_training_only():
    model = build(replace(GPT2, dropout=0.5))
    tokens = tokens_for(GPT2)
    assert not torch.equal(model.train()(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))


def test_initial_weights_have_the_std_of_the_config_and_residual_outputs_a_smaller_one():
    torch.manual_seed(0)
    model = build(GPTConfig(vocab_size=500, layers=8, width=128, heads=4, tied_embedding=False))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            residual = name.endswith(("attention.output.weight", "ffn.down.weight"))
            expected = 0.02 / 4 if residual else 0.02  # 1 / sqrt(2 * 8 layers)
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name


@pytest.mark.parametrize("config", [GPT2, LLAMA, VARIANTS[1]], ids=["gpt2", "llama", "sinusoidal"])
def test_a_model_from_the_meta_device_computes_what_its_weights_say(config):
    model = build(config).eval()
    with torch.device("meta"):
        empty = build(config).eval()
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    empty.to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    tokens = tokens_for(config)
    assert torch.equal(empty(tokens), model(tokens))


def test_weights_can_be_drawn_after_the_meta_device():
    with torch.device("meta"):
        late = build(LLAMA)
    late.to_empty(device="cpu")
    torch.manual_seed(0)
    for module in late.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    torch.manual_seed(0)
    early = build(LLAMA)
    for name, tensor in early.state_dict().items():
        assert torch.equal(late.state_dict()[name], tensor), name


@pytest.mark.parametrize("tied", [True, False])
def test_the_state_holds_each_parameter_once_and_nothing_else(tied):
    model = build(replace(LLAMA, tied_embedding=tied))
    state = model.state_dict()
    assert set(state) == {name for name, _ in model.named_parameters()}
    copy = build(replace(LLAMA, tied_embedding=tied))
    copy.load_state_dict(load(save(state)))  # safetensors refuses shared tensors
    tokens = tokens_for(LLAMA)
    assert torch.equal(copy(tokens), model(tokens))


@pytest.mark.parametrize("config", VARIANTS, ids=NAMES)
def test_bf16_stays_near_fp32_by_cast_and_by_autocast(config):
    torch.manual_seed(0)
    config = replace(config, init_std=0.05)
    model = build(config)
    tokens = tokens_for(config)
    exact = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        automatic = model(tokens)
    cast = model.bfloat16()(tokens)
    assert cast.dtype == automatic.dtype == torch.bfloat16
    scale = exact.std()
    assert (automatic.float() - exact).std() < 0.03 * scale
    assert (cast.float() - exact).std() < 0.03 * scale
    functional.cross_entropy(cast.float().flatten(0, 1), tokens.flatten()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_sequence_above_max_positions_is_refused():
    with pytest.raises(ValueError, match=r"17 tokens is longer than model\.max_positions=16"):
        build(LLAMA)(tokens_for(LLAMA, T=17))


@pytest.mark.parametrize("documents", [None, torch.arange(16).repeat(2, 1) // 5])
def test_a_model_traces_into_one_graph(documents):
    model = build(LLAMA)
    tokens = tokens_for(LLAMA)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(tokens, documents=documents), model(tokens, documents=documents)
    )
