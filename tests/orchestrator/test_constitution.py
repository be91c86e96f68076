"""The stage `constitution`: critique and revision by an endpoint, by rules, and after kill -9."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data.sources.conversations import file_conversations, file_preferences
from orchestrator.stages.asking import endpoint
from orchestrator.stages.asking.requests import Reply
from orchestrator.stages.constitution.principles import BUILT_IN, Principle, read_principles
from orchestrator.stages.constitution.prompts import Prompt
from orchestrator.stages.constitution.revising import revised
from orchestrator.stages.constitution.stage import ConstitutionConfig
from tests.orchestrator.chatting import chatting, quoted, said
from tests.orchestrator.typed import refused, typed

ROOT = Path(__file__).parents[2]
QUICK = ("run", "stage=constitution", "tracking=none")
POLITE = "# Manners\n\nAn answer shall be:\n\n- An answer says please.\n"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.005)


def writer(body, _):
    """Answers rudely, sees what is wrong, and revises odd ones; judges what is polite."""
    last = body["messages"][-1]["content"]
    if "Reply with one letter" in last:
        _, a, b = quoted(body)
        return said("A" if ("please" in a) > ("please" in b) else "B")
    asked = body["messages"][0]["content"]
    if last.startswith("Say in what way"):
        return said("It is rude.")
    if last.startswith("Write your answer again"):
        assert body["messages"][-2]["content"] == "It is rude."
        polite = int(asked.split()[1]) % 2
        return said(f"Look at {asked}, please." if polite else f"Look harder at {asked}.")
    return said(f"Look at {asked}.")


def asked(number=6):
    rows = [{"prompt": f"Number {n}"} for n in range(number)]
    Path("prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    Path("polite.md").write_text(POLITE)


def words(server, *more):
    return (
        *("stage.data=prompts.jsonl", "stage.constitution=polite.md", "stage.revise=conversation"),
        *("stage.rounds=1", "stage.writer.model=m", f"stage.writer.endpoint={server.url}"),
        *("stage.judge.model=m", f"stage.judge.endpoint={server.url}", *more),
    )


def metrics():
    return json.loads(Path("outputs/latest/result.json").read_text())["metrics"]


def test_answers_are_criticised_revised_and_judged_for_sft_and_dpo():
    asked()
    with chatting(writer) as server:
        planned = typed("plan", *QUICK[1:], *words(server))
        assert "18 requests; about " in planned.out
        answer = typed(*QUICK, *words(server))
    assert answer.code == 0, answer
    found = metrics()
    assert found["constitution/changed"] == 1.0
    assert found["constitution/preferred"] == 0.5, "the polite ones"
    assert found["constitution/judge_asked"] == 12
    assert found["constitution/drift_words"] == 1.0
    answers = list(file_conversations("outputs/latest/sft.jsonl"))
    assert answers[1].messages == (
        ("user", "Number 1"),
        ("assistant", "Look at Number 1, please."),
    )
    pairs = list(file_preferences("outputs/latest/preferences.jsonl"))
    assert [one.chosen[-1][1] for one in pairs] == [
        f"Look at Number {n}, please." for n in (1, 3, 5)
    ]
    assert [one.rejected[-1][1] for one in pairs] == [f"Look at Number {n}." for n in (1, 3, 5)]
    assert "critique  It is rude." in answer.out
    assert all(word in answer.out for word in ("stage=sft", "stage=dpo"))
    assert typed("show", "outputs/latest").code == typed("why", "outputs/latest").code == 0


def test_who_is_killed_in_the_middle_goes_on_and_no_row_is_doubled():
    asked(12)
    some, held = threading.Event(), threading.Event()
    answered = []

    def answer(body, number):
        if number == 16 and not held.is_set():  # among the critiques
            some.set()
            held.wait(60)
            return 500, b""
        answered.append(json.dumps(body, sort_keys=True))
        return writer(body, number)

    with chatting(answer) as server:
        own = words(server, "stage.writer.concurrency=1")
        with subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *QUICK, *own],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        ) as process:
            assert some.wait(60)
            process.send_signal(signal.SIGKILL)
        held.set()
        assert len(answered) == 16
        done = typed(*QUICK, *own)
        assert done.code == 0, done
        assert "12 answered before" in done.out or "16 answered before" in done.out
    assert len(answered) == len(set(answered)) == 3 * 12 + 2 * 12, "nothing was asked twice"
    rows = list(file_conversations("outputs/latest/sft.jsonl"))
    assert [row.messages[0][1] for row in rows] == [f"Number {n}" for n in range(12)]


def test_rules_say_which_answers_are_given_again_and_which_stay():
    drafts = iter(["f(a", "ok", "f(a, b", "f(a)", "", "g(b", "Still not"])

    def ask(requests):
        return [Reply(next(drafts), 1, 1) for _ in requests]

    prompts = [Prompt((("user", f"{n}?"),)) for n in range(3)]
    stage = ConstitutionConfig(rounds=2)
    found = revised(prompts, read_principles(BUILT_IN, "it"), stage, ask, seed=0)
    assert [own.first for own in found] == ["f(a", "ok", "f(a, b"]
    assert [own.answer for own in found] == ["f(a)", "ok", "f(a, b"]
    revisions = [[one.revision for one in own.rounds] for own in found]
    assert revisions == [["f(a)"], [], ["", "g(b"]], "each only as long as it falls short"
    assert "a name, a call, or a whole sentence" in found[0].rounds[0].critique


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("empty.yaml", "", "holds no principle; write each on a line"),
        ("empty.md", "Nothing here.\n", "holds no principle"),
        ("bad.yaml", "- [", "is no YAML"),
        ("bad.yaml", "a: b", "must be a list of principles"),
        ("bad.yaml", "- {principle: ''}", 'needs "principle"'),
        ("bad.yaml", "- {principle: a, rules: b}", "did you mean rule?"),
        ("bad.yaml", "- {principle: a, rule: exact}", "rule=exact is not one of"),
        ("bad.yaml", "- {principle: a, rule: closed, least: 2}", "least=2 must be"),
    ],
)
def test_a_constitution_that_is_none_is_refused(name, text, said):
    Path(name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_principles(Path(name), "stage.constitution")


def test_principles_are_read_of_markdown_and_yaml():
    Path("a.md").write_text("# Title\n1. Be kind.\n- Be *brief*.\nNot this.\n")
    kind, brief = read_principles(Path("a.md"), "it")
    assert (kind.text, brief.text) == ("Be kind.", "Be *brief*.")
    assert "Be kind." in kind.critique
    Path("a.yaml").write_text("- Be kind.\n- {principle: Be brief., revision: Shorter!}\n")
    found = read_principles(Path("a.yaml"), "it")
    assert found == (kind, Principle("Be brief.", found[1].critique, "Shorter!"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "needs a writer; try stage.writer.model=SFT_RUN"),
        (
            "stage.constitution=polite.md stage.writer.model=m stage.writer.endpoint=http://localhost:1",
            "has none; try stage.revise=conversation",
        ),
        ("stage.writer.model=m stage.temperature=0", "writes the same again"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_starts(words, said):
    asked()
    assert said in refused(*QUICK, *words.split())
