"""stage=sft as a user types it, on questions about Python and on files of messages."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import models
import models.cost
from data import Tokenizer, TokenizerConfig
from data.chat import BUILT_IN, ChatTemplate
from data.files import cache_root
from data.sources.conversation import Conversation
from data.sources.python_questions import (
    FUNCTIONS,
    WORDINGS,
    python_questions,
)
from models.configs import GPTConfig
from models.decoding import Sampling, generate
from orchestrator.record.checkpoints import newest_valid
from orchestrator.record.lines import read
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.published import open_splits
from orchestrator.stages.sft.conversations import (
    ARRAYS,
    TOKENIZER,
    Split,
    publish_conversations,
)
from orchestrator.stages.sft.packing import packed
from orchestrator.stages.sft.writing import token_f1
from orchestrator.training import checkpoint
from tests.orchestrator.typed import refused, trained, typed

PLAIN = (
    *("resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
    *("engine=torch", "engine.precision=fp32", "tracking=none"),
)
SMALL = (
    *("tokenizer=bytes", "model.layers=1", "model.width=32", "model.heads=2"),
    *("stage.global_batch_size=8", "optim.warmup_steps=4", "optim.learning_rate=1e-2"),
    *("stage.steps=160", "stage.checkpoint_every=80", "stage.evaluate_every=80"),
)
ANSWERS = {"red": "Stop.", "green": "Go.", "amber": "Wait, and look."}
TASKS = {"go": ("green",), "stop": ("red", "amber")}


def published(talks, **options):
    settings = {"sequence_length": 256, "packing": True, "validation_fraction": 0.3, "seed": 0}
    return publish_conversations(
        talks, "talks", TokenizerConfig("bytes"), (BUILT_IN, "the built-in chat template"),
        cache=cache_root(), **settings | options,
    )  # fmt: skip


def opened(found, split="train"):
    tokenizer = Tokenizer.load(found.folder(cache_root()) / TOKENIZER)
    splits = open_splits(Split, ARRAYS, found, cache_root(), filling=tokenizer.end_of_text)
    return splits[split == "validation"], tokenizer


def talks(count=40):
    """Of different lengths, each with two answers."""
    return [
        Conversation(
            (
                ("user", f"{n} is {'so ' * (n % 7)}red?"),
                ("assistant", "a" * (1 + n % 5)),
                ("user", "And?"),
                ("assistant", "b"),
            ),
            str(n),
        )
        for n in range(count)
    ]


def whole(split):
    """All rows of a split, a micro-batch each."""
    return list(evaluation(split, 1, 0, 1))


def losses(model, batch):
    """Summed loss of the answers of a micro-batch."""
    rows = torch.from_numpy(batch.tokens)
    documents = None if batch.documents is None else torch.from_numpy(batch.documents)
    mask = torch.from_numpy(batch.loss_mask)
    targets = rows[:, 1:]
    return model(rows[:, :-1], documents=documents, targets=targets, loss_mask=mask)


def test_a_packed_row_has_the_loss_of_its_conversations_alone():
    torch.manual_seed(0)
    model = models.build(GPTConfig(vocab_size=257, layers=2, width=32, heads=2))
    together, alone = (opened(published(talks(), packing=own))[0] for own in (True, False))
    assert len(together) < len(alone) / 2
    sums = {}
    for name, split in (("together", together), ("alone", alone)):
        own = [(losses(model, batch).item(), batch.weight) for batch in whole(split)]
        sums[name] = np.array(own).sum(0)
    assert sums["together"] == pytest.approx(sums["alone"], rel=1e-6)


def test_a_conversation_of_a_row_does_not_see_another():
    torch.manual_seed(0)
    model = models.build(GPTConfig(vocab_size=257, layers=2, width=32, heads=2)).eval()
    rows = whole(opened(published(talks()))[0])
    batch = next(own for own in rows if own.documents is not None)
    rows, documents = torch.from_numpy(batch.tokens), torch.from_numpy(batch.documents)
    logits = model(rows[:, :-1], documents=documents)
    other = torch.where(documents == 0, (rows[:, :-1] + 1) % 257, rows[:, :-1])
    changed = model(other, documents=documents)
    last = documents[0] > 0
    assert torch.equal(logits[0, last], changed[0, last])
    assert not torch.equal(logits[0, ~last], changed[0, ~last])


@pytest.mark.parametrize("packing", [True, False])
def test_targets_are_answers_with_their_end_and_padding_of_the_same_token_is_none(packing):
    split, tokenizer = opened(published(talks(), packing=packing))
    rows = np.arange(len(split))
    batch = split.batch(rows, rows, np.ones(len(rows), dtype=np.bool_))
    assert (batch.tokens[:, -1] == tokenizer.end_of_text).any(), "some rows are filled up"
    told = [
        tokenizer.decode(row[1:][mask])
        for row, mask in zip(batch.tokens, batch.loss_mask, strict=True)
    ]
    ended = sorted(text for row in told for text in row.split("<|endoftext|>") if text)
    wanted = [own for own in talks() if own.key not in held_out_keys(published(talks()))]
    assert ended == sorted(
        content for own in wanted for role, content in own.messages if role == "assistant"
    )
    assert sum(row.count("<|endoftext|>") for row in told) == 2 * len(wanted)


def held_out_keys(found):
    return {messages[0][1].split()[0] for messages, _ in found.held_out(cache_root())}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_each_item_is_packed_once_and_no_two_rows_could_be_one(lengths):
    rows = packed(lengths, 50)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    filled = sorted(sum(lengths[item] for item in row) for row in rows)
    assert filled[-1] <= 50
    assert all(a + b > 50 for a, b in pairwise(filled))


def test_a_held_out_function_is_never_asked_about_and_a_held_out_wording_never_used():
    questions = list(python_questions(0))
    found = published(questions[:4000], validation_fraction=0.2)
    split, tokenizer = opened(found)
    ends = [0, *split.ends.tolist()]
    seen = "".join(tokenizer.decode(split.tokens[a:b]) for a, b in pairwise(ends))
    shown = found.held_out(cache_root())
    asked = {FUNCTIONS: 0, WORDINGS: 0}
    for (_, question), _, kind in ((*messages, kind) for messages, kind in shown):
        assert f"\n{question}\n<|assistant|>" not in seen, question
        asked[kind] += 1
        if kind == FUNCTIONS and "`" in question:
            assert question[question.index("`") : question.rindex("`") + 1] not in seen
    assert min(asked.values()) > 50
    answers = {own.messages[0][1]: own.messages[1][1] for own in questions}
    assert answers["Which module is `isroutine` in?"] == "inspect"
    assert answers["How is `copystat` called?"].startswith("copystat(src, dst")


def test_what_asks_again_is_learned_or_left_out_and_never_measured():
    first = talks()
    again = [
        replace(own, messages=(("user", "Say it."), *own.messages), again=True) for own in first
    ]
    once, twice = published(first), published([*first, *again])
    assert twice.conversations == 2 * once.conversations
    assert twice.held_out(cache_root()) == once.held_out(cache_root())


@pytest.mark.parametrize(
    ("answer", "wanted", "f1"),
    [
        ("dumps(obj, indent)", "dumps(obj, indent)", 1.0),
        ("Dumps (OBJ)", "dumps(obj)", 1.0),  # words alone count
        ("dumps(obj, fp)", "dumps(obj)", 2 * 2 / (3 + 2)),
        ("a a b", "a b b b", 2 * 2 / (3 + 4)),  # each word as often as it is in both
        ("json", "pickle", 0.0),
        ("", "pickle", 0.0),
    ],
)
def test_token_f1_is_that_of_the_words_of_both(answer, wanted, f1):
    assert token_f1(answer, wanted) == pytest.approx(f1)


@pytest.fixture(scope="module")
def lights(tmp_path_factory):
    """Two tasks that a small model learns by heart, and a run on them that was resumed."""
    folder = tmp_path_factory.mktemp("lights")
    for task, lights in TASKS.items():
        rows = [
            {"messages": [
                {"role": "user", "content": f"{n}: {light}?"},
                {"role": "assistant", "content": ANSWERS[light]},
            ]}
            for n in range(60) for light in lights
        ]  # fmt: skip
        (folder / f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = (f"{task}: {{data: {folder}/{task}.jsonl, weight: 1}}" for task in TASKS)
    tasks = f"stage.tasks={{{', '.join(own)}}}"
    words = ("stage=sft", tasks, "stage.sequence_length=96", *PLAIN, *SMALL)
    first = typed("run", *words, f"outputs={folder}/first")
    assert first.code == 0, first
    start = (folder / "first" / "latest").resolve() / "checkpoints" / "step_00000080"
    again = typed("run", f"resume={start}", f"outputs={folder}/again")
    assert again.code == 0, again
    return folder, first, again


def metrics(folder):
    lines, _ = read((folder / "latest").resolve() / "metrics.jsonl")
    return {
        (line["step"], name): value
        for line in lines
        for name, value in line["metrics"].items()
        if name.endswith(("loss", "exact"))
    }


def test_it_ends_with_what_got_better_and_a_few_answers(lights):
    folder, first, _ = lights
    found = metrics(folder / "first")
    assert found[0, "validation/exact"] == 0
    assert found[160, "validation/exact"] == 1
    run = (folder / "first" / "latest").resolve()
    rows = json.loads((run / "answers_before_and_after.json").read_text())["data"]
    parts = [*TASKS, "all"]
    assert [row[0] for row in rows] == [
        f"{own}: {what}" for own in parts for what in ("loss", "exact")
    ]
    exact = rows[-1]
    assert exact[-2].startswith("0.0% (0.0% to ")
    assert exact[-1].startswith("100.0% (")
    assert exact[-1].endswith(" to 100.0%)")
    examples = json.loads((run / "examples.json").read_text())["data"]
    for task in TASKS:
        assert found[160, f"validation/{task}/loss"] < found[0, f"validation/{task}/loss"] / 10
        assert found[160, f"validation/{task}/exact"] == 1
    assert {row[-1] for row in examples} == {"the same"}
    assert {row[2] for row in examples} <= set(ANSWERS.values())
    assert "orchestrate generate" in first.out


def test_an_answer_is_exact_where_the_saved_weights_write_it(lights):
    folder, _, _ = lights
    saved = newest_valid((folder / "first" / "latest").resolve() / "checkpoints")[0]
    model, tokenizer = checkpoint.load_writer(saved), Tokenizer.load(saved.tokenizer)
    chat = ChatTemplate(saved.facts["examples"]["chat_template"], tokenizer)
    for light, answer in ANSWERS.items():
        prompt = chat.prompt([("user", f"7: {light}?")])
        end = tokenizer.end_of_text
        [row] = generate(model, [prompt], 30, Sampling(temperature=0), stop_tokens=(end,)).rows()
        assert tokenizer.decode(row) == f"{answer}<|endoftext|>"


def test_a_resumed_run_takes_the_same_steps_and_remembers_the_model_before(lights):
    folder, first, again = lights
    after = {key: value for key, value in metrics(folder / "first").items() if key[0] > 80}
    assert metrics(folder / "again") == after

    def tables(answer):
        return answer.out[answer.out.index("┏") : answer.out.index("done:")]

    assert tables(again) == tables(first)


def test_a_run_goes_on_with_the_same_mixture_alone(lights, monkeypatch):
    folder, *_ = lights
    monkeypatch.chdir(folder)
    start = (folder / "first" / "latest").resolve() / "checkpoints" / "step_00000080"
    for change in ("go.weight=2", "stop.limit=50"):
        message = refused("run", f"resume={start}", f"stage.tasks.{change}")
        assert "stage.tasks, data and the tokenizer must give the same examples" in message
    doubled = [f"stage.tasks.{task}.weight=2" for task in TASKS]
    assert typed("plan", f"resume={start}", *doubled).code == 0


@pytest.fixture(scope="module")
def adapted(corpus, tmp_path_factory):
    """Two answers as low-rank updates of a run on text, half of whose rows are that text again."""
    folder = tmp_path_factory.mktemp("adapted")
    roles = ("user", "assistant")
    talks = [zip(roles, (f"{n}?", "yes" if n % 2 else "no"), strict=True) for n in range(80)]
    rows = [
        {"messages": [{"role": role, "content": content} for role, content in talk]}
        for talk in talks
    ]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    (folder / "short.jinja").write_text(template)
    answer = typed(
        *("run", "stage=sft", f"model.weights={trained(corpus)}"),
        *(f"stage.data={folder}/talks.jsonl", "data=text", f"data.path={corpus}"),
        *(f"stage.chat_template={folder}/short.jinja", "stage.sequence_length=32", *PLAIN),
        *("model.adapter=lora", "model.adapter_rank=4", "stage.replay_fraction=0.5"),
        *("stage.global_batch_size=4", "stage.steps=6"),
        *("stage.evaluate_every=3", "optim.warmup_steps=1", f"outputs={folder}"),
    )  # fmt: skip
    assert answer.code == 0, answer
    return (folder / "latest").resolve(), answer


def test_it_says_how_much_of_the_text_known_before_is_forgotten(adapted, corpus):
    run, answer = adapted
    lines, _ = read(run / "metrics.jsonl")
    names = "validation/base_loss", "validation/base_change"
    found = [
        [m[name] for name in names] for m in (line["metrics"] for line in lines) if names[0] in m
    ]
    losses, changes = zip(*found, strict=True)
    assert len(losses) == 3, "before, during and after"
    assert changes == pytest.approx([loss / losses[0] - 1 for loss in losses])
    [row] = json.loads((run / "forgetting.json").read_text())["data"]
    told = [f"{loss:.3f}" for loss in (losses[0], max(losses), losses[-1])]
    assert row[1:] == [*told, f"{losses[-1] / losses[0] - 1:+.1%}"]
    assert "rows of" in answer.out
    written = json.loads((run / "answers_in_writing.json").read_text())["data"]
    assert [row[0].rpartition(": ")[2] for row in written] == ["exact", "F1"]
    assert all(cell.endswith("%)") for row in written for cell in row[2:]), "few-shot has, too"


def test_its_checkpoint_keeps_updates_beside_the_weights_they_started_from(adapted, corpus):
    run, answer = adapted
    saved = newest_valid(run / "checkpoints")[0]
    assert saved.model_config().adapter == "lora"
    raw, plain = checkpoint.open_role(saved), checkpoint.load_model(saved)
    before = checkpoint.load_model(newest_valid(trained(corpus) / "checkpoints")[0])
    assert f"{models.cost.trained_parameters(saved.model_config()):,} of them trained" in answer.out
    assert {n for n in raw.names() if ".lora." in n} == set(saved.role()[1].tensors), "no others"
    for name, weight in before.named_parameters():
        assert torch.equal(checkpoint.read_whole(raw, name), weight), name
        assert raw.keys(name) == {"weight"}, "no optimizer state"
        changed = not torch.equal(plain.get_parameter(name), weight)
        assert changed == name.endswith("qkv.weight"), name
    assert checkpoint.open_weights(run).model_config.adapter is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage.data=gone.jsonl"], "gone.jsonl is no file"),
        (["stage.data=roles.jsonl"], "roles.jsonl: row 2: messages[0]: role 'tool' is not one of"),
        (["stage.data=silent.jsonl"], "silent.jsonl: row 1: messages ends with the user"),
        (["stage.data=few.jsonl"], "few.jsonl gives 1 conversation for training and 0 for"),
        (
            ["stage.data=few.jsonl", "stage.sequence_length=4"],
            "1 left out as longer than stage.sequence_length=4 tokens, and both need some; raise "
            "stage.sequence_length, give more conversations, or",
        ),
        (["stage.sequence_length=512"], "is longer than model.max_positions=256; try"),
        (["stage.validation_fraction=1"], "must lie between 0 and 1"),
        (["stage.replay_fraction=0.1"], "random weights know nothing"),
        (["model.adapter=lora", "model.adapter_targets=[gates]"], "did you mean gate"),
        (["stage.data=few.jsonl", "model.adapter=lora"], "would be random; add model.weights="),
        (["stage.chat_template=gone.jinja"], "gone.jinja is no file"),
        (["stage.data=few.jsonl", "stage.chat_template=own.jinja"], "marks 0 answers of a"),
        (["model=bert_tiny"], "is no language model"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    settings, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    hello = {"role": "user", "content": "hello"}
    rows = {
        "roles": [[hello, hello | {"role": "assistant"}], [{"role": "tool", "content": "x"}]],
        "silent": [[hello]],
        "few": [[hello, hello | {"role": "assistant"}]],
    }
    for name, own in rows.items():
        lines = [json.dumps({"messages": messages}) for messages in own]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    Path("own.jinja").write_text("{# endgeneration #}{{ eos_token }}")
    assert message in refused("run", "stage=sft", *PLAIN, "tokenizer=bytes", *settings)
