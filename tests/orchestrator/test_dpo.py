"""stage=dpo as a user types it, on a model that was trained before."""

import json
import math
from pathlib import Path

import pytest

from data import Tokenizer
from data.chat import ChatTemplate
from orchestrator.record.lines import read
from orchestrator.stages.dpo.pairs import last_answer
from tests.orchestrator.typed import refused, trained, typed

PLAIN = (
    *("resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
    *("engine=torch", "engine.precision=fp32", "tracking=none"),
)
SHORT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}:{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def asked(corpus, tmp_path_factory):
    """What is typed for pairs of which the polite answer is the better one."""
    folder = tmp_path_factory.mktemp("polite")
    (folder / "short.jinja").write_text(SHORT)
    pairs = [{"prompt": f"{n} x", "chosen": "please", "rejected": "never"} for n in range(60)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return (
        *("stage=dpo", f"model.weights={trained(corpus)}", f"stage.data={folder}/pairs.jsonl"),
        *(f"stage.chat_template={folder}/short.jinja", "stage.sequence_length=32", *PLAIN),
        *("stage.validation_fraction=0.2", "stage.steps=12", "stage.checkpoint_every=6"),
        *("stage.global_batch_size=8", "stage.micro_batch_size=4", "stage.evaluate_every=6"),
        *("optim.warmup_steps=1", "optim.learning_rate=1e-2"),
    )


def metrics(folder):
    lines, _ = read((folder / "latest").resolve() / "metrics.jsonl")
    return {
        (line["step"], name): value
        for line in lines
        for name, value in line["metrics"].items()
        if name.endswith(("loss", "margin", "accuracy", "above"))
    }


def test_a_policy_that_is_the_reference_has_ln_2_and_learns_to_prefer(asked, tmp_path):
    first = typed("run", *asked, f"outputs={tmp_path}/first")
    assert first.code == 0, first
    found = metrics(tmp_path / "first")
    assert found[0, "validation/margin"] == 0
    assert found[0, "validation/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[1, "train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[12, "validation/accuracy"] == found[12, "validation/above"] == 1
    assert found[12, "validation/loss"] < 0.5
    assert "chosen answer likelier" in first.out
    # Where a run goes on the policy is another model, and the reference must not be.
    start = (tmp_path / "first" / "latest").resolve() / "checkpoints" / "step_00000006"
    again = typed("run", f"resume={start}", f"outputs={tmp_path}/again")
    assert again.code == 0, again
    after = {key: value for key, value in found.items() if key[0] > 6}
    assert metrics(tmp_path / "again") == after
    tables = [own.out.partition("┏")[2].partition("done:")[0] for own in (first, again)]
    assert tables[0] == tables[1]


def test_what_is_asked_and_what_was_answered_before_is_no_part_of_an_answer():
    tokenizer = Tokenizer.plain_bytes()
    talk = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "de")]
    row = ChatTemplate(SHORT, tokenizer).row(talk)
    chosen = [t for t, own in zip(row.tokens, last_answer(row), strict=True) if own]
    assert tokenizer.decode(chosen) == "de<|endoftext|>"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.weights=null"], "add model.weights=RUN, a run of stage=sft"),
        (["stage.label_smoothing=0.5"], "must be at least 0 and below 0.5"),
        (["stage.loss=ipo", "stage.label_smoothing=0.1"], "it is for stage.loss=dpo"),
        (["stage.loss=hinge"], "stage.loss=hinge"),
        (["stage.beta=0"], "stage.beta=0.0 must be greater than 0"),
        (["stage.data=same.jsonl"], "same.jsonl: row 1: chosen and rejected are the same"),
        (["stage.data=lost.jsonl"], "lost.jsonl has no column rejected; it has chosen, prompt"),
        (["stage.sequence_length=64"], "is longer than model.max_positions=32"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    settings, message, asked, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    lost = {"chosen": "b", "prompt": "a"}
    Path("lost.jsonl").write_text(json.dumps(lost))
    Path("same.jsonl").write_text(json.dumps(lost | {"rejected": "b"}))
    own = [word.partition("=")[0] for word in settings]
    words = [word for word in asked if word.partition("=")[0] not in own]
    assert message in refused("run", *words, *settings)
