"""Every setting that is accepted has a reader; one that would change nothing is refused.

The readers are found by watching real jobs: whoever takes a setting from its section, and does
not only check, copy or save it.
"""

import json
import re
import sys
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import models
from data import Tokenizer
from data.config import (
    FORMATS,
    ContractConfig,
    DataConfig,
    DriftConfig,
    SourceConfig,
    ValidationConfig,
)
from data.sources import read_records, units_of
from data.tokenizer import KINDS, TokenizerConfig, load_or_train
from models import MODELS
from models.configs import (
    BertConfig,
    GPTConfig,
    LSTMConfig,
    MLPConfig,
    RNNConfig,
    TokenModelConfig,
    TransformerConfig,
    WindowConfig,
)
from models.configs.gpt import POSITIONS
from orchestrator.compose import compose_one
from orchestrator.config import (
    BY_STAGE,
    SECTIONS,
    EngineConfig,
    JobConfig,
    OptimConfig,
    TrackingConfig,
)
from orchestrator.config.optim import OPTIMIZERS, SCHEDULES
from orchestrator.record.mlflow.mirror import new_state
from orchestrator.stages import STAGES
from orchestrator.stages.asking.section import AskedConfig, JudgeConfig
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.stages.masked.stage import MaskedConfig
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.translate.stage import TranslateConfig
from orchestrator.training import optim
from tests.orchestrator.typed import ROOMY, SMALL, on, trained, typed

ROOT = Path(__file__).parents[2]
SCHEMA = {
    *(JobConfig, *SECTIONS.values(), *(stage.section for stage in STAGES.values())),
    *(family.config for family in MODELS.values()),
    *(SourceConfig, ContractConfig, DriftConfig, ValidationConfig, AskedConfig, JudgeConfig),
}
CONFIGS = {
    *(str(path) for path in (ROOT / "orchestrator" / "config").glob("*.py")),
    *(str(path) for path in (ROOT / "models" / "configs").glob("*.py")),
    *(str(path) for path in (ROOT / "orchestrator" / "stages").glob("*/stage.py")),
    str(ROOT / "data" / "config.py"),
}
COPIES = ("dataclasses.py", "copy.py", "pickle.py", "omegaconf")
NO_READERS = ("__post_init__", "unread", "_fill_in", "sources", "validation_source")
OTHER = {
    "checkpoint": "elsewhere",
    "data.weight": 2,
    "optim.nesterov": True,
    "tokenizer.vocab_size": 300,
}
"""Values to give, where a text, a number or the other truth value would not do."""


def is_reader(frame):
    """Whether it takes a setting in order to act on it, itself or through a section's property."""
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if any(part in file for part in COPIES) or name in NO_READERS:
            return False
        if file not in CONFIGS:
            return True
        if "check" in name:
            return False
        frame = frame.f_back
    return False


@pytest.fixture
def watched(monkeypatch, tmp_path):
    """(class, field) of each setting that is read; there is no data in the cache yet."""
    seen = set()
    monkeypatch.chdir(tmp_path)

    def watch(node):
        names, plain = {field.name for field in fields(node)}, node.__getattribute__

        def read(self, name):
            if name in names and type(self) is node and is_reader(sys._getframe(1)):
                seen.add((node, name))
            return plain(self, name)

        monkeypatch.setattr(node, "__getattribute__", read)

    for node in SCHEMA:
        watch(node)
    return seen


def settings_of(node, section, seen):
    """Full names of the settings of a section, those of sections inside too, and whether read."""
    hints = get_type_hints(node)
    for field in fields(node):
        name = f"{section}.{field.name}" if section else field.name
        if is_dataclass(hints[field.name]) and section:
            yield from settings_of(hints[field.name], name, seen)
        elif not (is_dataclass(hints[field.name]) or name.endswith((".name", ".family"))):
            owners = {node, SourceConfig} if node is DataConfig else {node}
            yield name, any((owner, field.name) in seen for owner in owners)


def another(name, node):
    """A value of a setting that is not its default."""
    leaf = name.rpartition(".")[2]
    default, kind = {f.name: f.default for f in fields(node)}[leaf], get_type_hints(node)[leaf]
    if name in OTHER or kind is bool:
        return OTHER.get(name, not default)
    return "elsewhere" if "str" in str(kind) else 0.5 if "float" in str(kind) else 7


def silent(job, section, seen, attempt, elsewhere=()):
    """Settings of a section that are neither read nor refused when `attempt` sets them."""
    node, unread, found = type(getattr(job, section) if section else job), job.unread(), []
    for name, read in list(settings_of(node, section, seen)):
        if read or name in elsewhere or any(f"{name}.".startswith(f"{own}.") for own in unread):
            continue
        owner = node
        for part in name.removeprefix(f"{section}.").split(".")[:-1]:
            owner = get_type_hints(owner)[part]
        value = another(name, owner)
        with suppress(ValueError):
            try:
                attempt(name, value)
            except ValueError as refused:
                assert name in str(refused), "not for another reason"  # noqa: PT017
                raise
            found.append(name)
    return found


def retyped(words):
    """An attempt to compose a job with one setting more."""

    def attempt(name, value):
        compose_one([*words, f"{name}={str(value).lower()}"])

    return attempt


def sections_of(job):
    """Names of the sections that a job has, and "" for itself."""
    return [
        "",
        *(n for n in ("stage", "model", *SECTIONS) if n in job.stage.reads or n not in BY_STAGE),
    ]


SENT = {f"tracking.{f.name}" for f in fields(TrackingConfig)} - {"tracking.enabled"}
"""Read by whoever sends the record, while the job runs or later."""


ASKED = ("writer", "judge")


def talks(folder):
    """A file of conversations that are preference pairs, too; a short template beside it."""
    rows = []
    for n in range(40):
        asked = {"role": "user", "content": f"{n}?"}
        yes, no = ([asked, {"role": "assistant", "content": own}] for own in ("Yes", "No"))
        rows.append({"messages": yes, "chosen": yes, "rejected": no})
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    (folder / "short.jinja").write_text(template)
    return folder / "talks.jsonl"


def compared(folder):
    """A file of answers to compare, to the questions of `talks`."""
    rows = [{"prompt": f"{n}?", "answers": ["Yes", "No"], "gold": n} for n in range(2)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "pairs.jsonl"


def polite(folder):
    """A constitution."""
    (folder / "polite.md").write_text("- Be polite.")
    return folder / "polite.md"


@pytest.mark.parametrize("stage", STAGES)
def test_a_setting_of_a_job_is_read_by_it_or_refused(stage, watched, corpus, tmp_path, monkeypatch):
    plain = [w for w in SMALL if w.startswith(("resources", "engine", "tracking"))]
    words = {
        "pretrain": [*on(corpus), "stage.steps=2"],
        "evaluate": [f"checkpoint={trained(corpus)}", *on(corpus)[:2], "data.sequence_length=32"],
        "judge": [
            *(f"stage.data={compared(tmp_path)}", f"stage.people={talks(tmp_path)}"),
            *(f"stage.judge.model={trained(corpus, ROOMY)}", "stage.judge.least_mass=0"),
            f"stage.judge.chat_template={tmp_path / 'short.jinja'}",
        ],
        "constitution": [
            *(f"stage.data={talks(tmp_path)}", "stage.prompts=2", "stage.answer_tokens=4"),
            *(f"stage.{who}.model={trained(corpus, ROOMY)}" for who in ("writer", "judge")),
            *(
                f"stage.{who}.chat_template={tmp_path / 'short.jinja'}"
                for who in ("writer", "judge")
            ),
            f"stage.constitution={polite(tmp_path)}",
            "stage.revise=conversation",
        ],
        "classify": ["stage.steps=2", "optim.warmup_steps=1"],
        "embed": [f"stage.data={corpus}", "stage.steps=2", "optim.warmup_steps=1"],
        "regress": ["stage.steps=2", "optim.warmup_steps=1"],
        "masked": [*on(corpus), "tokenizer=bpe_mask", "tokenizer.vocab_size=300", "stage.steps=2"],
        "classify_text": [
            *("stage.steps=2", "optim.warmup_steps=1", "tokenizer.vocab_size=300"),
            *("model.layers=1", "model.width=16", "model.heads=2"),
        ],
        "dpo": [
            *(f"model.weights={trained(corpus)}", f"stage.data={talks(tmp_path)}"),
            *("stage.steps=2", "optim.warmup_steps=1", "stage.sequence_length=32"),
            *(f"stage.chat_template={tmp_path / 'short.jinja'}", "stage.answered=2"),
        ],
        "reward": [
            *("stage.steps=2", "optim.warmup_steps=1", "tokenizer=bytes", "model.layers=1"),
            *(f"stage.data={talks(tmp_path)}", "model.width=16", "model.heads=2"),
        ],
        "ppo": [
            *(f"model.weights={trained(corpus)}", f"stage.data={talks(tmp_path)}"),
            *("stage.steps=2", "optim.warmup_steps=1", "stage.prompt_tokens=24"),
            *(f"stage.chat_template={tmp_path / 'short.jinja'}", "stage.answer_tokens=4"),
            *("stage.global_batch_size=8", "stage.validation_fraction=0.2"),
            *("data=text", f"data.path={corpus}", "data.sequence_length=16"),
            "stage.ptx_coefficient=0.1",
        ],
        "grpo": [
            *(f"model.weights={trained(corpus)}", f"stage.data={talks(tmp_path)}"),
            *("stage.steps=2", "optim.warmup_steps=1", "stage.prompt_tokens=24"),
            *(f"stage.chat_template={tmp_path / 'short.jinja'}", "stage.answer_tokens=4"),
            *("stage.global_batch_size=8", "stage.validation_fraction=0.2"),
        ],
        "sft": [
            *("stage.steps=2", "optim.warmup_steps=1", "tokenizer=bytes", "model.layers=1"),
            *(f"stage.data={talks(tmp_path)}", "model.width=16", "model.heads=2"),
        ],
        "translate": [
            *("stage.steps=2", "optim.warmup_steps=1", "stage.pairs=100", "model.layers=1"),
            *("tokenizer.vocab_size=300", "stage.validation_fraction=0.1", "model.width=16"),
        ],
    }[stage]
    words = [f"stage={stage}", *words, *(plain if stage != "pretrain" else ())]
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))
    watched.clear()
    answer = typed("run", *words)
    assert answer.code == 0, answer
    job = compose_one(words)
    for section in sections_of(job):
        assert silent(job, section, watched, retyped(words), SENT) == []


@pytest.mark.parametrize(
    ("name", "schedule"),
    [*((name, "cosine") for name in OPTIMIZERS), *(("adamw", own) for own in SCHEDULES)],
)
def test_a_setting_of_an_optimizer_and_its_schedule_is_read_or_refused(name, schedule, watched):
    config = OptimConfig(name, schedule=schedule, warmup_steps=2)
    optim.build(torch.nn.Linear(2, 2), config)
    for step in range(1, 9):
        optim.learning_rate(config, step, 8)
    job = JobConfig(
        optim=config, stage=PretrainConfig(), model=GPTConfig(), engine=EngineConfig(zero_stage=0)
    )

    def attempt(name, value):
        OptimConfig(config.name, **{name.removeprefix("optim."): value})

    assert silent(job, "optim", watched, attempt, {"optim.gradient_clip"}) == []


@pytest.mark.parametrize(
    "config",
    [
        *(GPTConfig(vocab_size=5, layers=1, width=8, positions=own) for own in POSITIONS),
        *(
            GPTConfig(vocab_size=5, layers=1, width=8, adapter=own, adapter_rank=2)
            for own in ("lora", "bottleneck")
        ),
        *(
            GPTConfig(vocab_size=5, layers=1, width=8, adapter=own, adapter_tokens=2)
            for own in ("prompt", "prefix")
        ),
        *(kind(vocab_size=5, layers=1, width=8) for kind in (TransformerConfig, BertConfig)),
        MLPConfig(inputs=64, outputs=10),
        MLPConfig(inputs=64, outputs=10, hidden=[]),
        *(own(vocab_size=5, width=4) for own in (RNNConfig, LSTMConfig, WindowConfig)),
    ],
)
def test_a_setting_of_a_model_is_read_or_refused(config, watched):
    text = isinstance(config, TokenModelConfig)
    inputs = torch.zeros(1, 3, dtype=torch.int64) if text else torch.zeros(1, 64)
    texts = 2 if isinstance(config, TransformerConfig) else 1
    models.build(config).train()(*[inputs] * texts)
    stage = {TransformerConfig: TranslateConfig, BertConfig: MaskedConfig}.get(
        type(config), PretrainConfig if text else ClassifyConfig
    )
    job = JobConfig(stage=stage(), model=config, tokenizer=TokenizerConfig(mask=True))

    def attempt(name, value):
        replace(config, **{name.removeprefix("model."): value})

    assert silent(job, "model", watched, attempt, {"model.weights"}) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_of_a_tokenizer_is_read_or_refused(kind, watched, tmp_path):
    Tokenizer.plain_bytes().save(tmp_path / "tokenizer.json")
    own = {"path": str(tmp_path / "tokenizer.json")} if kind == "file" else {}
    config = TokenizerConfig(kind, **own)
    load_or_train(config, lambda: iter(["a text"]))
    job = JobConfig(stage=PretrainConfig(), model=GPTConfig(), tokenizer=config)

    def attempt(name, value):
        TokenizerConfig(**{"kind": kind, **own, name.removeprefix("tokenizer."): value})

    assert silent(job, "tokenizer", watched, attempt) == []


@pytest.mark.parametrize("source", FORMATS)
def test_a_setting_of_a_source_is_read_or_refused(source, watched, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    folder, rows = tmp_path / "corpus", ["one", "two", "three"]
    folder.mkdir()
    if source in ("parquet", "hf"):
        pq.write_table(pa.table({"text": rows}), folder / "a.parquet")
    else:
        lines = [json.dumps({"text": row}) if source == "jsonl" else row for row in ["text", *rows]]
        (folder / f"a{FORMATS[source][0] if FORMATS[source] else ''}").write_text("\n".join(lines))
    own = {} if source == "python_docs" else {"path": str(folder)}
    config = DataConfig(source=source, **own)
    for unit in units_of(config):
        assert next(read_records(config, unit)).texts
    config.validation_source()
    job = JobConfig(stage=PretrainConfig(), model=GPTConfig(), data=config)

    def attempt(name, value):
        *parts, leaf = name.removeprefix("data.").split(".")
        nested = {parts[0]: ValidationConfig(**{leaf: value})} if parts else {leaf: value}
        DataConfig(source=source, **own, **nested)

    whole = {f.name for f in fields(DataConfig)} - {f.name for f in fields(SourceConfig)}
    elsewhere = {  # of the data as a whole, watched in whole jobs
        *(name for name, _ in settings_of(DataConfig, "data", ()) if name.split(".")[1] in whole),
        *("data.filters", "data.validation.path", "data.validation.take"),
        *(("data.validation.split",) if source == "hf" else ()),
    }
    assert silent(job, "data", watched, attempt, elsewhere) == []


def test_what_is_asked_of_tracking_goes_to_whoever_sends_the_record(watched, tmp_path):
    new_state(TrackingConfig(), tmp_path)
    assert {f"tracking.{name}" for node, name in watched if node is TrackingConfig} == SENT


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("optim.decay_fraction=0.2", "has no effect: it is for optim.schedule=wsd"),
        ("roles.model.optim.decay_fraction=0.2", "roles.model.optim.decay_fraction=0.2 has no"),
        (
            "model.positions=learned model.rotary_base=500",
            "it is for model.positions=rotary; leave it out",
        ),
        ("data.weight=3", "it is for a mixture"),
        ("data.drift.policy=stop", "it is for data.drift.reference"),
        ("data.drift={policy: stop}", "data.drift.policy=stop has no effect"),
        ("stage.sample_tokens=0 stage.prompts=[a]", "stage.sample_tokens=0 writes nothing"),
        ("resources=inline resources.address=a:1", "launcher=inline starts no Ray"),
        ("tracking=none tracking.system_metrics=false", "they are sent while the job runs"),
        ("model.weights=x model.init_std=0.1", "it is for random weights"),
        ("stage=classify engine.activation_checkpointing=true", "keeps all activations; try"),
        (
            "stage=evaluate checkpoint=x data.packing=best_fit",
            "reads each document of a",
        ),
        (
            "stage=evaluate checkpoint=x engine=zero3 engine.offload_optimizer=true",
            "nothing is",
        ),
        ("stage=evaluate checkpoint=x engine.zero_stage=2", "but under engine=zero3"),
    ],
)
def test_what_would_change_nothing_is_refused_with_what_to_type(words, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        compose_one(words.replace(": ", ":").split())


def test_a_default_that_changes_nothing_is_harmless_and_so_is_one_of_a_choice():
    assert compose_one(["optim=adamw_wsd", "optim.schedule=constant"]).optim.final_fraction == 0.0
    job = compose_one(["roles.model.optim.schedule=wsd", "optim.decay_fraction=0.3"])
    assert job.role("model").optim.decay_fraction == 0.3
