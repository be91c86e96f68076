"""Adapters under every engine, in checkpoints, and as a user trains and uses them."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import models
from models.adapters import UpdatedLinear, parts_of
from models.configs import HFConfig
from models.configs.gpt import ADAPTERS, TARGETS
from models.formulas.adapters import learns, merged_config
from orchestrator.config import EngineConfig, RoleConfig
from orchestrator.record.checkpoints import Retention, newest_valid
from orchestrator.record.lines import read as read_lines
from orchestrator.training import checkpoint
from orchestrator.training.checkpoint.merging import Merged, merged
from orchestrator.training.materialise import on_meta
from orchestrator.training.roles import build_role
from orchestrator.training.state import WEIGHT, Slice
from orchestrator.training.transfer import transferred
from tests.orchestrator import tiny
from tests.orchestrator.gathered import Memory, gathered
from tests.orchestrator.typed import trained as trained_run
from tests.orchestrator.typed import typed

ZERO = ("zero0", "zero1", "zero2", "zero3")


def job(engine, world_size=1, adapter="lora", **settings):
    """With low-rank updates of all projections, or what else adapts the model."""
    plain = tiny.job(engine, world_size, **settings)
    more = {
        "lora": {"adapter_rank": 4, "adapter_targets": list(TARGETS)},
        "bias": {"bias": True},
    }
    return replace(plain, model=replace(plain.model, adapter=adapter, **more.get(adapter, {})))


def trained(jobs, steps=3):
    """Of each job its losses, and the state before and after its steps."""
    found = {}
    for name, own in jobs.items():
        engine, losses = tiny.build(own), []
        before = gathered(engine)
        tiny.run(own, engine, steps, log=lambda _, m, to=losses: to.append(m["train/loss"]))
        found[name] = losses, before, gathered(engine)
    return found


def learned(config=None):
    """State of a model whose updates are not zero, and the model."""
    torch.manual_seed(0)
    model = tiny.build(job("torch") if config is None else config).model
    for own in parts_of(model).values():
        torch.nn.init.normal_(list(own.parameters())[-1], std=0.3)
    saved = {name: {WEIGHT: p.detach().clone()} for name, p in model.named_parameters()}
    return Memory(saved), model


@pytest.mark.parametrize("adapter", ["lora", "prompt", "prefix", "bottleneck", "bias"])
def test_every_zero_stage_trains_what_adapts_alone_as_one_process_does(adapter, one, two):
    losses, before, after = one.run(trained, {"torch": job("torch", adapter=adapter)})[0]["torch"]
    for name in before.names():
        own = name.endswith(".bias") if adapter == "bias" else f".{adapter}." in f".{name}"
        kept = {WEIGHT, "exp_avg", "exp_avg_sq"} if own else {WEIGHT}
        assert after.keys(name) == kept, name
        same = torch.equal(before.tensors[name][WEIGHT], after.tensors[name][WEIGHT])
        assert same != own, name
    for found in two.run(trained, {name: job(name, 2, adapter) for name in ZERO}):
        for name, (own, _, state) in found.items():
            assert own == pytest.approx(losses, rel=1e-4), name
            for tensor in after.names():
                assert state.keys(tensor) == after.keys(tensor), (name, tensor)
                torch.testing.assert_close(
                    state.tensors[tensor][WEIGHT], after.tensors[tensor][WEIGHT],
                    rtol=1e-3, atol=1e-5,
                )  # fmt: skip


def test_any_range_of_merged_state_is_that_of_the_merged_weights():
    saved, model = learned()
    reader, config = merged(saved, model.config)
    assert isinstance(reader, Merged)
    assert config == merged_config(model.config)
    assert {name: reader.shape(name) for name in reader.names()} == {
        name: tuple(p.shape) for name, p in on_meta(config).named_parameters()
    }
    draw = random.Random(0)
    for name in reader.names():
        own = model.get_submodule(name.rpartition(".")[0])
        updated = isinstance(own, UpdatedLinear) and name.endswith(".weight")
        whole = (own.whole_weight if updated else model.get_parameter(name)).detach().flatten()
        for _ in range(12):
            start, stop = sorted(draw.choices(range(len(whole) + 1), k=2))
            found = reader.read(name, WEIGHT, start, stop)
            torch.testing.assert_close(found, whole[start:stop])


def test_weights_of_a_plain_model_start_an_adapted_one_as_what_they_were():
    saved, model = learned(tiny.job("torch"))
    adapted = replace(model.config, adapter="lora")
    reader = transferred(saved, adapted, seed=3)
    shapes = {name: tuple(p.shape) for name, p in on_meta(adapted).named_parameters()}
    assert {name: reader.shape(name) for name in reader.names()} == shapes
    drawn = [name for name in shapes if ".lora." in name]
    firsts = {name: reader.read(name, WEIGHT, 0, math.prod(shapes[name])) for name in drawn}
    for name, values in firsts.items():
        assert (values == 0).all() == name.endswith(".b"), name
    queries = [values for name, values in firsts.items() if name.endswith("query.a")]
    assert not torch.equal(*queries), "each layer draws its own"
    valued = replace(adapted, value_head=True)  # as a reward model or a critic
    assert set(transferred(saved, valued, seed=3).names()) == {
        name for name, _ in on_meta(valued).named_parameters()
    }


@pytest.mark.parametrize("adapter", ["prompt", "prefix"])
def test_virtual_tokens_stay_beside_the_weights_that_others_start_from(adapter):
    """A prompt begins as vectors of tokens; a model that has learned one keeps it."""
    saved, model = learned(tiny.job("torch"))
    adapted = replace(model.config, adapter=adapter, adapter_tokens=3)
    first = transferred(saved, adapted, seed=3)
    shapes = {name: tuple(p.shape) for name, p in on_meta(adapted).named_parameters()}
    assert {name: first.shape(name) for name in first.names()} == shapes
    if adapter == "prompt":
        vectors = checkpoint.read_whole(first, "prompt.vectors")
        assert (vectors[:, None] == model.embedding.weight).all(-1).any(-1).all()
    own, model = learned(replace(tiny.job("torch"), model=adapted))
    assert merged(own, adapted)[0] is own
    again = transferred(own, adapted, seed=4)
    for name in shapes:
        assert torch.equal(checkpoint.read_whole(again, name), model.get_parameter(name)), name


def test_adapters_of_several_tasks_stand_beside_one_base_and_hold_themselves_alone(tmp_path):
    root, plain = tmp_path / "here", learned(tiny.job("torch"))[1]

    def saved(name, model, base=None):
        slices = [
            Slice(n, tuple(p.shape), 0, {WEIGHT: p.detach().flatten()})
            for n, p in model.named_parameters()
            if base is None or learns(model.config, n)
        ]
        role = checkpoint.SavedRole(lambda: iter(slices), model.config, None, base)
        return checkpoint.save(root / name / "checkpoints", 1, {"model": role}, None, {})

    first = saved("base", plain)
    base = checkpoint.open_weights(first.path)
    models = {}
    for kind in ADAPTERS[:2] + ADAPTERS[3:]:
        _, model = learned(job("torch", adapter=kind))
        model.load_state_dict(plain.state_dict(), strict=False)
        models[kind] = model.eval()
        done = saved(kind, model, base)
        assert done.bytes < first.bytes / 2, kind
        assert done.role()[1].base.sha256 == first.manifest_sha256
    again = build_role(
        "model",
        RoleConfig(done.model_config(), EngineConfig(name="torch"), None),
        device=torch.device("cpu"),
        seed=0,
        resumed=(checkpoint.open_role(done), 1),
    )
    assert again.base.manifest_sha256 == first.manifest_sha256, "also of a run that goes on"
    assert {own.name for own in again.saved.state()} == set(done.role()[1].tensors)
    keeping = Retention(first.path.parent, keep=1)  # of its run, should it go on
    keeping.after(checkpoint.save(first.path.parent, 2, {}, None, {}))
    keeping.wait()
    root.rename(tmp_path / "there")  # as a whole
    tokens = torch.arange(10)[None]
    for kind, model in models.items():
        where = tmp_path / "there" / kind
        writer = checkpoint.load_writer(checkpoint.find(where))
        torch.testing.assert_close(writer(tokens), model(tokens), msg=kind)
    (tmp_path / "there" / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(checkpoint.CheckpointError, match="bring them back there"):
        checkpoint.open_weights(where)
    _, other = learned(tiny.job("torch"))
    torch.nn.init.zeros_(other.embedding.weight)
    root = tmp_path / "there"
    saved("base", other)
    with pytest.raises(
        checkpoint.CheckpointError, match=f"{first.manifest_sha256[:12]}, and there"
    ):
        checkpoint.open_weights(where)


def test_exported_for_peft_the_updates_are_what_the_weights_lack(tmp_path):
    """The matrices of the folder, put onto the old weights as peft does, give the merged ones."""
    _, model = learned()
    plain = replace(model.config, adapter=None)
    for config, name in ((model.config, "adapted"), (plain, "plain")):
        own = model if config.adapter else models.build(config)
        if not config.adapter:
            own.load_state_dict(model.state_dict(), strict=False)
        slices = [
            Slice(n, tuple(p.shape), 0, {WEIGHT: p.detach().flatten()})
            for n, p in own.named_parameters()
        ]
        role = checkpoint.SavedRole(lambda slices=slices: iter(slices), config, None)
        checkpoint.save(tmp_path / name, 1, {"model": role}, None, {})
    saved = {name: newest_valid(tmp_path / name)[0] for name in ("adapted", "plain")}
    before, after, updates = (
        load_file(checkpoint.export(saved[name], tmp_path / form / name, None, form) / file)
        for name, form, file in (
            ("plain", "hf", "model.safetensors"),
            ("adapted", "hf", "model.safetensors"),
            ("adapted", "peft", "adapter_model.safetensors"),
        )
    )
    about = json.loads((tmp_path / "peft" / "adapted" / "adapter_config.json").read_text())
    scale = about["lora_alpha"] / about["r"]
    changed = set()
    for name in updates:
        if "lora_A" in name:
            theirs = name.removeprefix("base_model.model.").replace("lora_A.", "")
            before[theirs] += scale * updates[name.replace("lora_A", "lora_B")] @ updates[name]
            changed.add(theirs.split(".")[-2])
    assert changed == set(about["target_modules"])
    for name, tensor in after.items():
        torch.testing.assert_close(before[name], tensor, msg=name)
    with pytest.raises(checkpoint.CheckpointError, match="has no low-rank updates"):
        checkpoint.export(saved["plain"], tmp_path / "none", None, "peft")
    assert not list(tmp_path.glob("none*"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft
def test_updates_of_a_module_of_transformers_are_merged_and_are_those_of_peft(tmp_path):
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
    plain = HFConfig(vocab_size=61, model_type="bloom", settings=sizes)
    first = models.build(plain).eval()
    config = replace(plain, adapter="lora", adapter_rank=2, adapter_targets=["query_key_value"])
    adapted = models.build(config).eval()
    adapted.load_state_dict(first.state_dict(), strict=False)
    for own in parts_of(adapted).values():
        torch.nn.init.normal_(own.b)
    learnt = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert set(learnt) == {n for n in dict(adapted.named_parameters()) if learns(config, n)}
    assert sum(p.numel() for p in learnt.values()) == models.cost.trained_parameters(config)
    slices = [
        Slice(n, tuple(p.shape), 0, {WEIGHT: p.detach().flatten()})
        for n, p in adapted.named_parameters()
    ]
    role = checkpoint.SavedRole(lambda: iter(slices), config, None)
    saved = checkpoint.save(tmp_path / "run", 1, {"model": role}, None, {})
    tokens = torch.arange(20).view(2, 10)
    expected = adapted(tokens)
    assert not torch.allclose(expected, first(tokens), atol=1e-3)
    torch.testing.assert_close(checkpoint.load_model(saved).eval()(tokens), expected)
    peft = pytest.importorskip("peft")
    folder = checkpoint.export(saved, tmp_path / "peft", form="peft")
    theirs = peft.PeftModel.from_pretrained(first.theirs, folder).eval()
    torch.testing.assert_close(theirs(tokens).logits, expected)


def test_a_policy_learns_by_its_updates_alone_and_starts_as_its_reference(corpus, tmp_path):
    pairs = [{"prompt": f"{n} x", "chosen": "yes", "rejected": "no"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    (tmp_path / "short.jinja").write_text(template)
    answer = typed(
        *("run", "stage=dpo", f"model.weights={trained_run(corpus)}", "model.adapter=lora"),
        *(f"stage.data={tmp_path}/pairs.jsonl", f"stage.chat_template={tmp_path}/short.jinja"),
        *("stage.sequence_length=32", "stage.validation_fraction=0.2", "stage.steps=2"),
        *("stage.global_batch_size=8", "optim.warmup_steps=1", f"outputs={tmp_path}"),
        *("resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
        *("engine=torch", "engine.precision=fp32", "tracking=none"),
    )
    assert answer.code == 0, answer
    losses = [
        line["metrics"]["train/loss"]
        for line in read_lines(tmp_path / "latest" / "metrics.jsonl")[0]
        if "train/loss" in line["metrics"]
    ]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    saved = checkpoint.open_role(newest_valid(tmp_path / "latest" / "checkpoints")[0])
    before = checkpoint.open_role(newest_valid(trained_run(corpus) / "checkpoints")[0])
    for name in before.names():
        assert torch.equal(*(checkpoint.read_whole(own, name) for own in (saved, before))), name
    ups = [name for name in saved.names() if name.endswith(".lora.value.b")]
    assert ups
    assert all(checkpoint.read_whole(saved, name).any() for name in ups)
