"""`orchestrate label`: nothing that a labeller said is lost, doubled, swapped or executed."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager

import pytest

from data.sources.conversations import file_preferences
from data.sources.rankings import file_rankings
from orchestrator.stages.asking.agreement import alpha, interval, nominal
from orchestrator.stages.asking.items import Item, exported, read_items
from orchestrator.verbs.label.agreement import report
from orchestrator.verbs.label.command import main
from orchestrator.verbs.label.service import Desk, Told, first_left
from orchestrator.verbs.label.store import AlreadyJudged, LabelError, Store
from tests.browser import browser, installed

HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def address(request, tmp_path_factory):
    """The URL of a new database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('labels')}/labels.db"
        return
    pgserver = pytest.importorskip("pgserver", reason="pgserver is not installed")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"))
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


def test_every_item_reaches_as_many_labellers_as_are_wanted_and_an_undone_judgement_counts_no_more(
    address,
):
    items = [Item(f"question {n}", f"a{n}", f"b{n}", 1.0 if n == 0 else None) for n in range(7)]
    with closing(Store(address)) as store:
        assert (store.add(items), store.add(items)) == (7, 0)
        desk, seen = Desk(store, overlap=2), {}
        for name in ("ann", "bob", "cleo"):
            while shown := desk.next(name)["item"]:
                seen.setdefault(shown["id"], []).append(name)
                desk.judge(name, Told(id=f"{name}-{shown['id']}", item=shown["id"], verdict="left"))
        known = items[0].id
        assert seen.pop(known) == ["ann", "bob", "cleo"]
        assert list(seen.values()) == [["ann", "bob"]] * 6
        again = Told(id=f"ann-{known}", item=known, verdict="right")
        desk.judge("ann", again)  # the same judgement, sent twice: the first one stands
        with pytest.raises(AlreadyJudged):
            desk.judge("ann", Told(id="another one", item=known, verdict="right"))
        for told in (again.model_copy(update={"id": "new-one-1", "verdict": "5"}),
                     again.model_copy(update={"id": "new-one-2", "item": "none"})):  # fmt: skip
            with pytest.raises(LabelError):
                desk.judge("dora", told)
        undone = desk.undo("cleo")["item"]["id"]
        assert undone == known
        assert desk.next("cleo")["item"]["id"] == known
    with closing(Store(address)) as store:  # another process later
        assert sorted(one.labeller for one in store.all()[1]) == ["ann"] * 7 + ["bob"] * 7


def test_sides_are_drawn_and_a_verdict_is_kept_of_the_answer_and_not_of_its_side(tmp_path):
    items = [Item(f"question {n}", "good", "bad", gold=1.0) for n in range(64)]
    with closing(Store(f"sqlite:///{tmp_path}/labels.db")) as store:
        store.add(items)
        desk = Desk(store, 1)
        while shown := desk.next("ann")["item"]:
            verdict = ("left", "right")[shown["texts"].index("good")]
            desk.judge("ann", Told(id=shown["id"], item=shown["id"], verdict=verdict))
        _, judgements = store.all()
    assert {one.value for one in judgements} == {1.0}
    [ann] = report(items, judgements).labellers
    assert (ann.known, ann.right, ann.decided) == (64, 64, 64)
    assert 16 < ann.left < 48
    assert ann.left == sum(first_left("ann", item.id) for item in items)


def test_two_labellers_are_not_given_one_item_while_there_is_another(tmp_path):
    with closing(Store(f"sqlite:///{tmp_path}/labels.db")) as store:
        store.add([Item("one", "a", "b"), Item("two", "a", "b")])
        now = [0.0]
        desk = Desk(store, 1, lambda: now[0])
        ann, bob = (desk.next(name)["item"]["id"] for name in ("ann", "bob"))
        assert ann != bob
        assert desk.next("cleo")["item"] is not None  # both are held, and one may be left lying
        now[0] = 601.0
        assert desk.next("bob")["item"]["id"] == min((ann, bob), key=lambda own: own != ann)


# Krippendorff (2011), section E: four observers, twelve units, and missing values.
OBSERVED = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]


def test_alpha_is_that_of_the_paper():
    units = [
        [float(value) for value in unit if value != "."]
        for unit in zip(*map(str.split, OBSERVED), strict=True)
    ]
    assert round(alpha(units, nominal), 3) == 0.743
    assert round(alpha(units, interval), 3) == 0.849
    assert alpha([[1.0], [2.0, 2.0]], nominal) is None


def test_what_is_exported_is_what_the_next_job_reads(tmp_path, capsys):
    told = []
    for kind, verdict, read_by in (("pairs", "left", file_preferences), ("rated", "4", None)):
        answers = ["good", "bad"] if kind == "pairs" else ["good"]
        items = read_items(write(tmp_path / kind, {"prompt": "q", "answers": answers}))
        with closing(Store(f"sqlite:///{tmp_path}/{kind}.db")) as kept:
            kept.add(items)
            Desk(kept, 1).judge("ann", Told(id="only one", item=items[0].id, verdict=verdict))
        store = f"--store={tmp_path}/{kind}.db"
        assert main(["export", str(tmp_path / f"{kind}.jsonl"), store]) == 0
        told.append(capsys.readouterr().out)
        [ranking] = file_rankings(str(tmp_path / f"{kind}.jsonl"))
        assert ranking.scores == (None if read_by else (4.0,))
        if read_by:
            [pair] = read_by(str(tmp_path / f"{kind}.jsonl"))
            assert {pair.chosen[-1][1], pair.rejected[-1][1]} == {"good", "bad"}
    assert "stage=dpo" in told[0]
    assert "stage=reward stage.loss=squared_error" in told[1]


def test_the_answer_with_more_votes_is_chosen_and_a_tie_is_no_preference():
    pair, rated = Item("q", "one", "two"), Item("q", "one")
    rows = list(exported([(pair, [1.0, 0.0, 0.0]), (pair, [0.5, 1.0, 0.0]), (rated, [4.0, 5.0])]))
    assert [row.pop("prompt") for row in rows] == ["q", "q"]
    assert rows[0].pop("margin") == pytest.approx(1 / 3)
    assert rows == [
        {"chosen": "two", "rejected": "one", "votes": 3},
        {"answer": "one", "rating": 4.5, "votes": 2},
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "line 1 is no JSON"),
        ([], 'line 1 needs "prompt"'),
        ({"prompt": " ", "answers": ["a"]}, 'needs "prompt", a text that is not empty'),
        ({"prompt": "q", "answers": []}, 'needs "answers"'),
        ({"prompt": "q", "answers": ["a", 1]}, 'needs "answers"'),
        ({"prompt": "q", "answers": ["a", "b", "a"]}, "has an answer twice"),
        ({"prompt": "q", "answers": ["a", "b"], "gold": 2}, "gold=2 must be the place"),
        ({"prompt": "q", "answers": ["a"], "gold": 6}, "gold=6 must be a rating"),
        ({"prompt": "q", "answers": ["a", "b"], "gold": math.nan}, "gold=nan"),
    ],
)
def test_a_row_that_nobody_can_judge_is_named(tmp_path, row, words):
    path = tmp_path / "items.jsonl"
    path.write_text(row if isinstance(row, str) else json.dumps(row))
    with pytest.raises(ValueError, match=re.escape(words)):
        read_items(path)


def test_of_several_answers_every_two_are_compared_and_what_is_known_goes_with_them(tmp_path):
    path = write(tmp_path / "a.jsonl", {"prompt": "q", "answers": ["a", "b", "c"]},
                 {"prompt": "k", "answers": ["a", "b", "c"], "gold": 2})  # fmt: skip
    assert read_items(path) == [
        *(Item("q", *pair) for pair in ("ab", "ac", "bc")),
        Item("k", "a", "c", gold=0.0),
        Item("k", "b", "c", gold=0.0),
    ]


def test_a_request_that_can_not_be_met_says_what_to_type(tmp_path):
    items = write(tmp_path / "a.jsonl", {"prompt": "q", "answers": ["a", "b"]})
    store = f"--store={tmp_path}/labels.db"
    for argv, words in [
        (["report", store], "begin with: orchestrate label serve"),
        (["serve", str(tmp_path / "none"), store], "can't be read"),
        (["serve", str(items), store, "--overlap=0"], "must be at least 1"),
        (["serve", str(items), store, "--labeller="], "is no name"),
        (["serve", str(items), "--store=postgresql://me:secret@h/x"], "not into the URL"),
    ]:
        with pytest.raises(ValueError, match=words):
            main(argv)
        if argv[0] == "serve":
            assert not (tmp_path / "labels.db").exists()
    Store(f"sqlite:///{tmp_path}/labels.db").close()
    with pytest.raises(ValueError, match="has no judgement to export"):
        main(["export", str(tmp_path / "x"), store])
    rating = write(tmp_path / "b.jsonl", {"prompt": "q", "answers": ["a"]})
    with closing(Store(f"sqlite:///{tmp_path}/labels.db")) as known:
        known.add(read_items(items))
    with pytest.raises(ValueError, match="holds the other kind"):
        main(["serve", str(rating), store])


@contextmanager
def serving(folder, *arguments):
    """`orchestrate label serve` in a process of its own, and the link of each labeller."""
    command = [sys.executable, "-m", "orchestrator", "label", "serve", "items.jsonl", *arguments]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        try:
            links, wanted = {}, sum(word.startswith("--labeller=") for word in arguments)
            while len(links) < wanted:
                line = process.stdout.readline()
                assert line, "it ended"
                if found := re.match(r"(.+): (http\S+)$", line):
                    links[found[1]] = found[2]
            deadline = time.monotonic() + 30
            while True:
                try:
                    urllib.request.urlopen(links[found[1]].partition("#")[0], timeout=5).read()
                    break
                except urllib.error.URLError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield process, links
        finally:
            process.kill()


def ask(link, path, body=None):
    base, _, own = link.partition("#")
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {own}", "Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(base + path.lstrip("/"), data, headers), timeout=10
    ) as answer:
        return json.loads(answer.read())


@pytest.mark.skipif(installed() is None, reason="no Chromium on this machine")
def test_a_page_loses_nothing_when_its_server_is_killed_and_executes_nothing_it_shows(
    tmp_path,
):
    rows = [{"prompt": f"{HOSTILE} {n}", "answers": [f"good {n}", HOSTILE]} for n in range(4)]
    write(tmp_path / "items.jsonl", *rows)
    with browser() as page:

        def key(name):
            for kind in ("keyDown", "keyUp"):
                page.call("Input.dispatchKeyEvent", type=kind, key=name)

        with serving(tmp_path, "--labeller=ann", "--labeller=bob", "--overlap=2") as (one, links):
            port = links["ann"].split(":")[2].split("/")[0]
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask(links["ann"].replace("#ann", "#bob"), "api/next")
            page.open(links["ann"])
            page.reads("0 of 4", "left is better", HOSTILE)
            key("1")
            page.reads("1 of 4")
            key("2")
            page.reads("2 of 4")
            key("z")
            page.reads("1 of 4", "undone")
            # The same item is judged on a second page of hers: the first one is told, and goes on.
            [item] = [ask(links["ann"], "api/next")["item"]["id"]]
            ask(
                links["ann"],
                "api/judgements",
                {"id": "the second", "item": item, "verdict": "left"},
            )
            key("1")
            page.reads("2 of 4", "judged on another page")
            page.run("document.getElementById('note').focus()")
            page.call("Input.insertText", text="because")
            key("Escape")
            os.kill(one.pid, signal.SIGKILL)
            one.wait()
            key("0")
            page.reads("the server does not answer")
        arguments = ("--labeller=ann", "--labeller=bob", "--overlap=2", f"--port={port}")
        with serving(tmp_path, *arguments) as (_, again):
            assert again == links
            page.reads("3 of 4")
            assert page.run("document.title") == "Which answer is better?"
    with closing(Store(f"sqlite:///{tmp_path}/outputs/labels.db")) as store:
        _, judgements = store.all()
    assert [(one.labeller, one.note) for one in judgements] == [
        ("ann", ""), ("ann", ""), ("ann", "because"),
    ]  # fmt: skip
    assert judgements[-1].value == 0.5
