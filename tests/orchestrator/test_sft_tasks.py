"""stage.tasks: how often an epoch shows what is of each task, and what is never shown."""

import json
import re
from collections import Counter
from itertools import count, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import Tokenizer, TokenizerConfig
from data.chat import BUILT_IN
from data.files import cache_root
from data.sources.conversation import Conversation
from data.sources.python_questions import FUNCTIONS, WORDINGS, python_questions
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.published import open_splits
from orchestrator.stages.sft.conversations import ARRAYS, Split, publish_conversations
from orchestrator.stages.sft.tasks import MOST_TIMES, TaskConfig, of_task, times
from tests.orchestrator.typed import refused

SIZES = {"few": 20, "many": 90}


def asked(name, number):
    """Conversations of different lengths; what they ask says of which task they are."""
    return [
        Conversation((("user", f"{name} {n}?"), ("assistant", "a" * (n % 9))), f"{name} {n}")
        for n in range(number)
    ]


def published(tasks, talks=None, **options):
    talks = talks or {name: asked(name, SIZES[name]) for name in tasks}
    settings = {"sequence_length": 128, "packing": True, "validation_fraction": 0.2, "seed": 0}
    return publish_conversations(
        [of_task(own, name, tasks[name]) for name in tasks for own in talks[name]],
        "talks", TokenizerConfig("bytes"), (BUILT_IN, "the built-in chat template"),
        cache=cache_root(), tasks=tasks, **settings | options,
    )  # fmt: skip


def shown(found):
    """What is asked in each training row."""
    tokenizer = Tokenizer.load(found.folder(cache_root()) / TOKENIZER)
    end = tokenizer.end_of_text
    train, _ = open_splits(Split, ARRAYS, found, cache_root(), filling=end)
    rows = [tokenizer.decode(train.tokens[a:b]) for a, b in pairwise([0, *train.ends.tolist()])]
    return [re.findall(r"<\|user\|>\n(.*)\n", row) for row in rows]


def held_out(found):
    return {messages[0][1]: kind for messages, kind in found.held_out(cache_root())}


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=4),
    st.integers(0, 9),
)
def test_an_epoch_is_the_shortest_with_exact_shares_that_leaves_none_out(tasks, seed):
    names = [str(task) for task, (number, _) in enumerate(tasks) for _ in range(number)]
    often = times(names, {str(task): weight for task, (_, weight) in enumerate(tasks)}, seed)
    total = Counter()
    for name, each in zip(names, often, strict=True):
        total[name] += each

    def served(epoch):
        """Whole numbers of each task as their weights, none below what there is of it."""
        whole = sum(weight for _, weight in tasks)
        return all(
            epoch * weight % whole == 0 and epoch * weight // whole >= number
            for number, weight in tasks
        )

    assert total.total() == next(epoch for epoch in count(1) if served(epoch))
    for task, (number, weight) in enumerate(tasks):
        own = [each for name, each in zip(names, often, strict=True) if name == str(task)]
        assert total[str(task)] * sum(w for _, w in tasks) == total.total() * weight
        assert max(own) - min(own) <= 1
        assert len(own) == number
        assert min(own) >= 1


def test_a_weight_that_would_show_a_conversation_without_an_end_is_refused():
    names = ["a"] * 2 + ["b"]
    assert times(names, {"a": 2, "b": MOST_TIMES}, 0) == [1, 1, MOST_TIMES]
    with pytest.raises(ValueError, match=r"stage\.tasks\.b\.weight=1001 would show each of its 1"):
        times(names, {"a": 2, "b": MOST_TIMES + 1}, 0)


@pytest.mark.parametrize("packing", [True, False])
def test_tasks_stand_in_an_epoch_by_weight_and_what_is_held_out_of_any_is_not_in_it(packing):
    tasks = {"few": TaskConfig("few", weight=3), "many": TaskConfig("many", weight=2, limit=50)}
    found = published(tasks, packing=packing)
    rows = shown(found)
    asked_for = Counter(question for row in rows for question in row)
    by_task = Counter(question.split()[0] for row in rows for question in row)
    assert by_task == {"few": 75, "many": 50}
    assert all(len(row) == len(set(row)) for row in rows), "none twice in a row"
    assert any(len(row) > 1 for row in rows) == packing
    never = held_out(found)
    assert Counter(never.values()) == Counter(question.split()[0] for question in never)
    assert set(never.values()) == set(tasks)
    assert not never.keys() & asked_for.keys()
    assert len(asked_for) == found.conversations
    for name, share in found.tasks.items():
        own = [question for question in asked_for if question.startswith(f"{name} ")]
        assert (share.conversations, share.shown) == (len(own), by_task[name])
        assert share.held_out == [*never.values()].count(name)
        if name == "few":
            assert share.conversations + share.held_out == SIZES[name], "none is left out"


def test_without_weights_an_epoch_shows_each_conversation_once_up_to_the_limit():
    found = published({"few": TaskConfig("few"), "many": TaskConfig("many", limit=30)})
    questions = [question for row in shown(found) for question in row]
    assert len(questions) == len(set(questions))
    own = SIZES["few"] - [*held_out(found).values()].count("few")
    assert Counter(q.split()[0] for q in questions) == {"few": own, "many": 30}


def test_the_fingerprint_is_of_the_tasks_and_the_ratio_of_their_weights():
    def fingerprint(few, many, **options):
        tasks = {"few": TaskConfig("few", *few), "many": TaskConfig("many", *many)}
        return published(tasks, **options).fingerprint

    base = fingerprint([3], [2])
    assert fingerprint([3], [2]) == fingerprint([6], [4]) == base
    others = [
        fingerprint([2], [3]),
        fingerprint([None], [None]),
        fingerprint([3], [2, 40]),
        fingerprint([3], [2], seed=1),
    ]
    renamed = {"some": TaskConfig("few", 3), "many": TaskConfig("many", 2)}
    talks = {"some": asked("few", SIZES["few"]), "many": asked("many", SIZES["many"])}
    others.append(published(renamed, talks).fingerprint)
    assert len({base, *others}) == 6


def test_questions_of_the_documentation_are_a_task_and_its_held_out_ones_are_no_others_either():
    built_in = list(python_questions(0))[:2000]
    told = [Conversation(own.messages, own.messages[0][1]) for own in built_in]
    tasks = {"docs": TaskConfig(weight=1), "again": TaskConfig("again", weight=1)}
    found = published(tasks, {"docs": built_in, "again": told}, sequence_length=256)
    never = held_out(found)
    assert set(never.values()) == {"again", f"docs/{FUNCTIONS}", f"docs/{WORDINGS}"}
    assert not never.keys() & {question for row in shown(found) for question in row}
    assert found.tasks["docs"].shown == found.tasks["again"].shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{a: {data: few.jsonl, weigth: 1}}", "stage.tasks.a.weigth: there is no such setting; di"),
        ("{a: few.jsonl}", "write 'stage.tasks={NAME: {data: FILE, weight: 1}}'"),
        ("{a: {data: few.jsonl, weight: 0}}", "stage.tasks.a.weight=0 must be at least 1"),
        ("{a: {data: few.jsonl, weight: 1.5}}", "stage.tasks.a.weight=1.5 must be a whole number"),
        ("{a: {data: few.jsonl, limit: 0}}", "stage.tasks.a.limit=0 must be at least 1"),
        ("{a b: {data: few.jsonl}}", "and not all: metrics are called by it; try a_b"),
        ("{all: {data: few.jsonl}}", "and not all: metrics are called by it; try all_1"),
        (
            "{a: {data: few.jsonl}, b: {data: few.jsonl}}",
            "stage.tasks.b.data=few.jsonl is that of stage.tasks.a, too; to show",
        ),
        ("{a: {}, b: {}}", "stage.tasks.b.data=null is that of stage.tasks.a, too"),
        (
            "{a: {weight: 2}, b: {data: few.jsonl}}",
            "give each task a weight, stage.tasks.b.weight=1, or none",
        ),
        ("{a: {data: gone.jsonl}}", "stage.tasks.a.data: gone.jsonl is no file"),
        ("{a: {data: empty.jsonl}}", "stage.tasks.a.data: empty.jsonl can't be read to its end"),
        ("{b: {data: few.jsonl}}", "stage.tasks.b gives 1 conversation for training and 0 for"),
        ("{a: {}} stage.data=few.jsonl", "stage.tasks.other.data=few.jsonl, or leave one of"),
    ],
)
def test_tasks_that_cannot_work_are_refused_before_anything_starts(
    settings, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]
    Path("few.jsonl").write_text(json.dumps({"messages": talk}))
    Path("empty.jsonl").touch()
    tasks, _, more = settings.partition(" stage.")
    words = (f"stage.tasks={tasks}", *([f"stage.{more}"] if more else []), "tokenizer=bytes")
    assert message in refused("run", "stage=sft", *words, "resources=inline", "tracking=none")
