"""Hugging Face both ways: their folders as our weights, ours as theirs, with the same logits."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from data import Tokenizer
from models import loss as loss_module
from models.configs import BertConfig, GPTConfig
from models.configs.hf import HFConfig
from models.decoding import Sampling, beam_search, generate, translate
from models.hf.architectures import DEFAULTS, HEADS, NotOurs, to_ours, to_theirs
from orchestrator.config import EngineConfig, OptimConfig
from orchestrator.training import checkpoint, engine
from orchestrator.training.checkpoint import CheckpointError, SavedRole
from orchestrator.training.state import WEIGHT
from tests.orchestrator.typed import on, refused, trained, typed

V = 61
LLAMA = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GPT2 = {"vocab_size": V, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
ONES = {
    "gpt2": ("gpt2", GPT2 | {"n_inner": 40}),
    "gpt2, untied, exact": (
        "gpt2",
        GPT2 | {"tie_word_embeddings": False, "activation_function": "gelu"},
    ),
    "llama": ("llama", LLAMA),
    "llama, tied, with biases": (
        "llama",
        LLAMA | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama 3": ("llama", LLAMA | {"rope_parameters": LLAMA3}),
    "llama, stretched": (
        "llama",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "mistral, wide heads": ("mistral", LLAMA | {"head_dim": 12, "sliding_window": None}),
    "mistral with a window": ("mistral", LLAMA | {"sliding_window": 5}),
    "qwen2": ("qwen2", LLAMA),
    "qwen3": ("qwen3", LLAMA | {"head_dim": 12}),
    "qwen3 with a window": (
        "qwen3",
        LLAMA | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
}
WRAPPED = {
    "gpt_neox": LLAMA,
    "bloom": {"vocab_size": V, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gemma": LLAMA | {"head_dim": 8},
}


def made(kind, settings, folder, head=transformers.AutoModelForCausalLM):
    """A random model of theirs in a folder; every tensor differs from what it starts as."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **settings)
    theirs = head.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:  # the others are worked out, and no file has them
                parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(folder)
    return theirs


def opened(folder):
    weights = checkpoint.open_weights(checkpoint.located(str(folder)))
    return checkpoint.build_writer(weights.reader, weights.model_config, weights.path).eval()


def tokens(B=2, T=40):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))


def saved(model, folder, tokenizer=None):
    """A checkpoint of ours that holds the weights of a model."""
    settings = EngineConfig(name="torch")
    built = engine.build(model.config, settings, OptimConfig(), device=torch.device("cpu"))
    built.model.load_state_dict(model.state_dict())
    role = SavedRole(built.state, model.config, None)
    return checkpoint.save(folder, 1, {"model": role}, tokenizer, {})


@pytest.mark.parametrize(("kind", "settings"), ONES.values(), ids=ONES)
def test_logits_are_the_same_in_and_out(kind, settings, tmp_path):
    theirs = made(kind, settings, tmp_path / "theirs")
    ours = opened(tmp_path / "theirs")
    assert isinstance(ours.config, GPTConfig)
    with torch.no_grad():
        expected = theirs(tokens()).logits
        torch.testing.assert_close(ours(tokens()), expected, atol=1e-4, rtol=1e-4)
        found = saved(ours, tmp_path / "ours")
        folder = checkpoint.export(found, tmp_path / "back", form="hf")
        back, told = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True
        )
        assert not told["missing_keys"] | told["unexpected_keys"]
        windowless = kind == "mistral" and ours.config.mask == "causal"  # which is a Llama
        assert type(back).__name__ == HEADS["llama" if windowless else kind]
        torch.testing.assert_close(back.eval()(tokens()).logits, expected, atol=1e-4, rtol=1e-4)
    assert to_ours(json.loads((folder / "config.json").read_text())) == ours.config


@pytest.mark.parametrize("kind", DEFAULTS)
def test_a_setting_that_a_file_leaves_out_has_the_default_of_transformers(kind):
    theirs = transformers.AutoConfig.for_model(kind)
    for name, value in DEFAULTS[kind].items():
        if value is not None:  # worked out of others
            assert getattr(theirs, name) == value, name


def losses_and_gradients(model, **asked):
    """What a model tells of targets, and the gradients of its sum."""
    targets = tokens().roll(-1, 1)
    found = model(tokens(), targets=targets, **asked)
    own = torch.autograd.grad(found.sum(), list(model.parameters()), allow_unused=True)
    return found.detach(), [each for each in own if each is not None]


@pytest.mark.parametrize("kind", WRAPPED)
def test_logits_of_a_wrapped_model_are_never_whole_where_they_are_many(kind, tmp_path, monkeypatch):
    made(kind, WRAPPED[kind], tmp_path)
    ours = opened(tmp_path).eval()
    mask = torch.rand(tokens().shape, generator=torch.Generator().manual_seed(0)) < 0.6
    ways = ({}, {"loss_mask": mask}, {"loss_mask": mask, "temperature": 0.7}, {"temperature": 2.0})
    whole = [losses_and_gradients(ours, **asked) for asked in ways]
    grades = {"targets": tokens().roll(-1, 1), "loss_mask": mask, "grades": True}
    graded = ours(tokens(), **grades)
    held = []
    head = ours.theirs.get_output_embeddings()
    head.register_forward_hook(lambda *told: held.append(told[2].numel() // V))
    monkeypatch.setattr(loss_module, "LOGITS_BYTES", {"cpu": 4 * V * 5})
    for asked, expected in zip(ways, whole, strict=True):
        torch.testing.assert_close(losses_and_gradients(ours, **asked), expected)
    torch.testing.assert_close(ours(tokens(), **grades), graded)
    assert max(held) == 5


@pytest.mark.parametrize("kind", WRAPPED)
def test_another_architecture_is_wrapped_and_writes_what_it_writes_there(kind, tmp_path):
    theirs = made(kind, WRAPPED[kind], tmp_path)
    ours = opened(tmp_path)
    assert isinstance(ours.config, HFConfig)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens()), theirs(tokens()).logits, atol=1e-4, rtol=1e-4)
    prompts = [[5, 7, 9], [4]]
    rows = generate(ours, prompts, 6, Sampling(temperature=0)).rows()
    for prompt, row in zip(prompts, rows, strict=True):
        asked = torch.tensor([prompt])
        alone = theirs.generate(
            asked,
            attention_mask=torch.ones_like(asked),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=V,
            pad_token_id=0,
        )
        assert alone[0, len(prompt) :].tolist() == row
    (found,) = beam_search(ours, [5, 7], 3, beams=V, length_penalty=0)
    with torch.no_grad():
        said = theirs(torch.tensor([[5, 7, *found.tokens]])).logits.log_softmax(-1)[0]
    assert found.logprob == pytest.approx(
        sum(float(said[1 + i, token]) for i, token in enumerate(found.tokens)), abs=1e-3
    )
    found = saved(ours, tmp_path / "ours")
    folder = checkpoint.export(found, tmp_path / "back", form="hf")
    with torch.no_grad():
        torch.testing.assert_close(
            opened(folder)(tokens()), theirs(tokens()).logits, atol=1e-4, rtol=1e-4
        )


def test_files_of_bf16_in_parts_and_without_the_names_of_a_head_are_read_by_ranges(tmp_path):
    theirs = made("gpt2", GPT2, tmp_path / "whole").bfloat16()
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    bare = tmp_path / "bare"
    theirs.transformer.save_pretrained(bare)
    tensors = load_file(bare / "model.safetensors")
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)  # as the first files of GPT-2 have it
    save_file(tensors, bare / "model.safetensors")
    readers = [checkpoint.open_weights(tmp_path / name).reader for name in ("parts", "bare")]
    weight = theirs.transformer.h[1].mlp.c_fc.weight.float().T.flatten()
    for reader in readers:
        assert torch.equal(reader.read("blocks.1.ffn.up.weight", WEIGHT, 99, 777), weight[99:777])
    config = json.loads((bare / "config.json").read_text())
    for name in ("tie_word_embeddings", "layer_norm_epsilon", "n_inner"):
        config.pop(name)  # as older files have it
    (bare / "config.json").write_text(json.dumps(config))
    assert (
        checkpoint.open_weights(bare).model_config
        == checkpoint.open_weights(tmp_path / "parts").model_config
    )


def test_older_names_of_rotary_settings_mean_the_same():
    new = to_ours({"model_type": "llama", **LLAMA, "rope_parameters": LLAMA3})
    old = {key: value for key, value in LLAMA3.items() if key not in ("rope_type", "rope_theta")}
    scaling = {"type": "llama3", **old}
    assert new == to_ours(
        {"model_type": "llama", **LLAMA, "rope_theta": 500.0, "rope_scaling": scaling}
    )


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function=relu is not gelu"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act=gelu is not silu"),
        ("llama", {"mlp_bias": True}, "mlp_bias=True is not False"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_type=yarn"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            "some layers have a sliding window",
        ),
        ("opt", {}, "model_type=opt is none of gpt2"),
    ],
)
def test_what_ours_can_not_compute_is_named_and_not_taken_for_ours(kind, settings, said):
    own = (GPT2 if kind == "gpt2" else LLAMA) | {"model_type": kind} | settings
    with pytest.raises(NotOurs, match=said):
        to_ours(own)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"positions": "sinusoidal"}, "model.positions=sinusoidal has no place in GPT-2"),
        ({"heads": 4, "kv_heads": 2}, "model.kv_heads"),
        ({"positions": "rotary"}, "model.norm=layernorm with model.positions=rotary"),
        ({"score": "cosine"}, "model.score=cosine is for study"),
        ({"mask": "none"}, "model.mask=none is for study"),
    ],
)
def test_what_theirs_can_not_compute_is_refused_by_its_setting(settings, said):
    with pytest.raises(NotOurs, match=said):
        to_theirs(GPTConfig(vocab_size=V, **settings))


def test_a_missing_tensor_a_wrong_shape_and_one_without_a_place_are_named(tmp_path):
    made("llama", LLAMA, tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    for change, said in (
        ({name: None}, f"{name} is missing; by its config.json it has shape (48, 32)"),
        ({name: torch.zeros(3, 4)}, f"{name} has shape (3, 4); by its config.json it has shape"),
        ({"model.layers.1.mlp.extra": torch.zeros(2)}, "no place for model.layers.1.mlp.extra"),
        ({name: torch.zeros(48, 32).to(torch.int8)}, f"{name} is I8, only F32, F16, BF16, F64"),
    ):
        save_file({n: t for n, t in (whole | change).items() if t is not None}, file)
        with pytest.raises(CheckpointError) as error:
            opened(tmp_path)
        assert said in str(error.value)


def test_a_pickle_is_refused_unless_allowed_and_then_holds_tensors_alone(tmp_path, monkeypatch):
    theirs = made("gpt2", GPT2, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    said = refused("run", f"model.weights={tmp_path}", "stage.steps=2")
    assert "add model.allow_pickle=true" in said
    folder = checkpoint.located(str(tmp_path), allow_pickle=True)
    with torch.no_grad():
        expected = theirs(tokens()).logits
        torch.testing.assert_close(opened(folder)(tokens()), expected, atol=1e-4, rtol=1e-4)
    torch.save({"a": Path("anything")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        checkpoint.located(str(tmp_path), allow_pickle=True)


def test_their_folder_is_trained_on_with_its_own_architecture_and_tokenizer(
    corpus, tmp_path, monkeypatch
):
    """In, three steps, out: what `export` writes continues texts in transformers as ours does."""
    monkeypatch.chdir(tmp_path)
    run = trained(corpus)
    answer = typed("export", str(run), "mine", "--format", "hf")
    assert answer.code == 0, answer
    assert not Path("mine/model.json").exists()
    small = [word for word in on(corpus) if not word.startswith(("model", "tokenizer"))]
    answer = typed("run", *small, "model.weights=mine", "stage.steps=3")
    assert answer.code == 0, answer
    found = checkpoint.find(Path("outputs/latest"))
    assert found.model_config() == replace(
        checkpoint.find(run).model_config(), **_written_out(found.model_config())
    )
    answer = typed("export", "outputs/latest", "more", "--format", "hf")
    assert answer.code == 0, answer
    theirs = transformers.AutoModelForCausalLM.from_pretrained("more")
    tokenizer = transformers.AutoTokenizer.from_pretrained("more")
    own = Tokenizer.load(Path("more/tokenizer.json"))
    text = "The row reads the shard."
    assert tokenizer(text).input_ids == own.encode(text)
    assert tokenizer.eos_token_id == own.end_of_text
    asked = torch.tensor([[own.end_of_text, *own.encode(text)[:5]]])
    new = theirs.generate(asked, max_new_tokens=6, do_sample=False, attention_mask=asked * 0 + 1)
    written = typed(
        *("generate", "more", "--prompt", own.decode(own.encode(text)[:5])),
        *("--max-new-tokens", "6", "--temperature", "0"),
    )
    assert written.code == 0, written
    assert written.out.rstrip("\n") == own.decode(new[0, 1:].tolist()).rstrip("\n")


def _written_out(config):
    """Settings that a config.json spells out."""
    names = ("ffn_width", "kv_heads", "init_std")
    return {name: value for name, value in asdict(config).items() if name in names}


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made("llama", LLAMA, tmp_path / "small")
    Tokenizer.plain_bytes().save(tmp_path / "small" / "tokenizer.json")
    small = [word for word in on(corpus) if not word.startswith(("model", "tokenizer"))]
    said = refused("run", *small, "model.weights=small")
    assert f"model.vocab_size={V} must be at least the 257 tokens of the tokenizer" in said


@pytest.mark.parametrize("name", ["nobody/nothing", "hf://nobody/nothing"])
def test_a_name_that_the_hub_does_not_give_is_refused_in_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused("run", f"model.weights={name}")
    assert "no folder here, and the Hugging Face hub gave nothing of that name" in said


BERT = {
    **{"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 48, "max_position_embeddings": 64},
}


@pytest.mark.parametrize("head", ["AutoModelForMaskedLM", "AutoModelForPreTraining"])
def test_bert_becomes_our_module_with_its_logits(head, tmp_path):
    theirs = made("bert", BERT, tmp_path, getattr(transformers, head))
    if head == "AutoModelForPreTraining":  # as the first published weights name them
        file = tmp_path / "model.safetensors"
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        named = load_file(file)
        for new, before in old.items():
            named = {name.replace(new, before): tensor for name, tensor in named.items()}
        save_file(named, file, {"format": "pt"})
    weights = checkpoint.open_weights(checkpoint.located(str(tmp_path)))
    assert isinstance(weights.model_config, BertConfig)
    ours = checkpoint.build_model(weights.reader, weights.model_config).eval()
    real = torch.arange(40) < torch.tensor([[40], [23]])
    with torch.no_grad():
        found = theirs(tokens(), attention_mask=real.long())
        expected = found.logits if head == "AutoModelForMaskedLM" else found.prediction_logits
        torch.testing.assert_close(ours(tokens(), real)[real], expected[real], atol=1e-4, rtol=1e-4)


def test_a_masked_model_of_theirs_is_looked_at_and_refused_by_pretraining(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs = made(
        "distilbert",
        {"vocab_size": 300, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
        tmp_path / "theirs",
        transformers.AutoModelForMaskedLM,
    )
    Tokenizer.plain_bytes().save(tmp_path / "theirs" / "tokenizer.json")
    weights = checkpoint.open_weights(checkpoint.located("theirs"))
    assert isinstance(weights.model_config, HFConfig)
    assert weights.model_config.task == "masked"
    answer = typed("attend", "theirs", "--text", "the cat sat", "--of", "sat")
    assert answer.code == 0, answer
    assert "layer 2 head 4: sat looks at" in answer.out
    ours = checkpoint.build_model(weights.reader, weights.model_config).eval()
    theirs.set_attn_implementation("eager")
    expected = theirs(tokens(), output_attentions=True).attentions
    for own, their in zip(ours.attention_maps(tokens()).values(), expected, strict=True):
        torch.testing.assert_close(own, their)
    said = refused("run", "model.weights=theirs")
    assert "model.family=hf does not predict the next token" in said


def test_a_mask_that_sees_the_token_it_predicts_is_named_in_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for mask, sees in (("none", True), ("causal", False)):
        answer = typed("plan", f"model.mask={mask}", "tokenizer=bytes")
        assert answer.code == 0, answer
        assert ("sees the token it predicts" in answer.out) == sees


PAIRED = {"vocab_size": 300, "d_model": 32, "eos_token_id": 256, "forced_eos_token_id": None}
LAYERED = {
    **{"encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
}
ENCODER_DECODERS = {
    "t5": {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "marian": LAYERED | {"pad_token_id": 299, "decoder_start_token_id": 299},
    "bart": LAYERED | {"decoder_start_token_id": 256},
}


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_an_encoder_decoder_is_wrapped_and_translates_as_it_does_there(kind, tmp_path):
    settings = PAIRED | ENCODER_DECODERS[kind]
    theirs = made(kind, settings, tmp_path, transformers.AutoModelForSeq2SeqLM)
    weights = checkpoint.open_weights(checkpoint.located(str(tmp_path)))
    ours = checkpoint.build_model(weights.reader, weights.model_config).eval()
    source, target = tokens(2, 9), tokens(2, 7)
    real = torch.arange(9) < torch.tensor([[9], [5]])
    given = {"input_ids": source, "attention_mask": real.long()}
    with torch.no_grad():
        expected = theirs(**given, decoder_input_ids=target).logits
        torch.testing.assert_close(ours(source, target, real), expected, atol=1e-4, rtol=1e-4)
        asked = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1}
        written = theirs.generate(**given, **asked)[:, 1:].tolist()
    rows = [row[mask].tolist() for row, mask in zip(source, real, strict=True)]
    for texts in (translate(ours, rows, 6, end=256), translate(ours, rows, 6, end=256, beams=4)):
        assert all(len(best.tokens) == 6 for [best] in texts)
    greedy = [list(best.tokens) for [best] in translate(ours, rows, 6, end=256)]
    assert greedy == written


def test_the_stage_of_translation_trains_t5_and_generate_translates_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = PAIRED | ENCODER_DECODERS["t5"] | {"vocab_size": 257, "n_positions": 20}
    made("t5", settings, tmp_path / "t5", transformers.AutoModelForSeq2SeqLM)
    Tokenizer.plain_bytes().save(tmp_path / "t5" / "tokenizer.json")
    small = ("stage.pairs=100", "stage.steps=3", "stage.global_batch_size=8", "stage.beams=1")
    plain = ("resources=inline", "resources.gpus_per_worker=0", "engine=torch", "tracking=none")
    words = ("stage=translate", "model.weights=t5", *small, *plain, "optim.warmup_steps=1")
    answer = typed("run", *words, "engine.precision=fp32", "stage.validation_fraction=0.02")
    assert answer.code == 0, answer
    assert "held-out texts" in answer.out
    told = typed("generate", "--prompt", "May 4, 2021", "--max-new-tokens", "5")
    assert told.code == 0, told
    assert "wrapped encoder-decoder (t5), whose attention" in refused("attend", "--text", "May")
