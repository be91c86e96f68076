"""The stage `judge`: pairs in both orders, by an endpoint, a model here, a rule."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from data import Tokenizer
from data.chat import BUILT_IN, ChatTemplate
from data.sources.conversations import file_preferences
from data.sources.rankings import file_rankings
from orchestrator.stages.asking import endpoint
from orchestrator.stages.asking.items import Item
from orchestrator.stages.asking.section import JudgeConfig
from orchestrator.stages.asking.verdicts import Verdict, questions
from orchestrator.stages.judge.outcome import measure
from orchestrator.stages.judge.stage import JudgingConfig
from orchestrator.training import checkpoint
from tests.orchestrator.chatting import chatting, quoted, said
from tests.orchestrator.typed import ROOMY, refused, trained, typed

SECRET = "sk-this-is-a-very-secret-key"
QUICK = ("run", "stage=judge", "tracking=none")
ALONE = (
    *("resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
    *("engine=torch", "tracking=none"),
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.005)


def pairs(number=12, **more):
    """A file of pairs of which the longer answer is the better one, in changing places."""
    rows = []
    for n in range(number):
        answers = [f"Short {n}.", f"A much longer answer {n}."]
        rows.append({"prompt": f"Question {n}?", "answers": answers[:: 1 if n % 2 else -1], **more})
        if n < 4:
            rows[-1]["gold"] = n % 2
    Path("pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return rows


def byte_tokenizer():
    """A tokenizer of transformers whose tokens are bytes and an end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Library(models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


def longer(body, _):
    """Prefers the longer answer, and says how much."""
    _, a, b = quoted(body)
    first = 0.8 if len(a) > len(b) else 0.2
    return said("A" if first > 0.5 else "B", {"A": first, "B": 1 - first})


def result():
    return json.loads(Path("outputs/latest/result.json").read_text())


def test_an_endpoint_judges_pairs_that_dpo_and_reward_read_and_its_key_is_nowhere(monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    rows = pairs()
    people = [
        {"prompt": row["prompt"], "chosen": max(row["answers"], key=len), "margin": 1.0}
        | {"rejected": min(row["answers"], key=len)}
        for row in rows[4:]
    ]
    people[0]["chosen"], people[0]["rejected"] = people[0]["rejected"], people[0]["chosen"]
    Path("people.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in people))
    with chatting(longer) as server:
        words = (
            *("stage.data=pairs.jsonl", "stage.people=people.jsonl", "stage.judge.model=m"),
            *(f"stage.judge.endpoint={server.url}", "stage.judge.key_variable=MY_KEY"),
            *("stage.judge.price_in=2", "stage.judge.price_out=10"),
        )
        planned = typed("plan", *QUICK[1:], *words)
        assert "24 requests; about " in planned.out
        assert "each) in money at most" in planned.out
        assert server.asked == [], "a plan asks nobody"
        answer = typed(*QUICK, *words)
        assert answer.code == 0, answer
        assert len(server.asked) == 24
        again = typed(*QUICK, *words)
        assert len(server.asked) == 24, "what was answered is kept"
        assert "0, and 24 answered before" in again.out
    metrics = result()["metrics"]
    assert (metrics["judge/accuracy"], metrics["judge/self_disagreement"]) == (1.0, 0.0)
    assert metrics["judge/brier"] == pytest.approx(0.2**2)
    assert metrics["judge/with_people"] == 7 / 8
    path = "outputs/latest/preferences.jsonl"
    chosen = [(one.chosen[-1][1], one.rejected[-1][1]) for one in file_preferences(path)]
    assert len(chosen) == 8, "those with a known answer stay out"
    assert all(len(better) > len(worse) for better, worse in chosen)
    assert len(list(file_rankings(path))) == len(chosen)
    assert not any(SECRET.encode() in f.read_bytes() for f in Path().rglob("*") if f.is_file())
    for verb in ("show", "why"):
        assert typed(verb, "outputs/latest").code == 0


def test_a_judge_that_likes_a_place_is_told_and_what_it_says_is_left_out():
    pairs()
    with chatting(lambda body, n: said("A")) as server:
        answer = typed(*QUICK, "stage.data=pairs.jsonl", "stage.judge.model=m",
                       f"stage.judge.endpoint={server.url}")  # fmt: skip
    assert answer.code == 0, answer
    metrics = result()["metrics"]
    assert metrics["judge/self_disagreement"] == metrics["judge/first_place"] == 1.0
    assert metrics["judge/accuracy"] == 0.5
    assert Path("outputs/latest/preferences.jsonl").read_text() == ""
    table = json.loads(Path("outputs/latest/disagreements.json").read_text())
    assert table["columns"][-2:] == ["first better, as A", "as B"]
    assert "0 of 8 pairs" in answer.out


def test_an_endpoint_that_dies_ends_the_job_in_a_sentence_and_what_it_said_is_kept():
    pairs()
    failed = []

    def dying(body, number):
        return longer(body, number) if number < 5 else (503, str(failed.append(1)).encode())

    with chatting(dying) as server:
        words = ("stage.data=pairs.jsonl", "stage.judge.model=m", "stage.judge.concurrency=1",
                 "stage.judge.retries=1", f"stage.judge.endpoint={server.url}")  # fmt: skip
        answer = typed(*QUICK, *words)
        assert answer.code == 1
        error = result()["error"]
        assert "gave no answer in 2 tries (HTTP 503)" in error["message"]
        assert "type the same again" in error["remedy"]
        server.answer = longer
        assert typed(*QUICK, *words).code == 0
        assert len(server.asked) == 24 + len(failed)


def test_figures_are_those_of_closed_forms():
    def verdict(first, second, gold=None):
        number = f"{first} {second} {gold}"
        return Verdict(Item(number, "one", "two", gold), (first, second))

    found = [
        verdict(0.9, 0.7, 1.0), verdict(0.2, 0.4, 1.0), verdict(0.9, 0.3, 0.0),
        verdict(0.1, 0.1), verdict(None, 0.4), verdict(0.8, 0.2),
    ]  # fmt: skip
    people = {found[3].item.id: 0.0, found[5].item.id: 1.0, found[0].item.id: 1.0}
    metrics = measure(found, people).metrics
    assert metrics["neither"] == 1 / 6
    assert metrics["self_disagreement"] == 2 / 5
    assert metrics["first_place"] == (3 + 4) / 10
    assert metrics["accuracy"] == (1 + 0 + 0.5) / 3
    assert metrics["brier"] == pytest.approx((0.2**2 + 0.7**2 + 0.6**2) / 3)
    # Sure of 0.8 and right, of 0.7 and wrong, of 0.6 and wrong: each in a bin of its own.
    assert metrics["calibration_error"] == pytest.approx((0.2 + 0.7 + 0.6) / 3)
    assert metrics["with_people"] == 2 / 3
    # Units (0, 0), (0.5, 1), (1, 1): D_o = 2 / 6, D_e = 22 / 30 by hand.
    assert metrics["alpha"] == pytest.approx(1 - (2 / 6) / (22 / 30))


def test_a_model_here_and_a_rule_judge_too_and_what_does_not_fit_is_told(corpus):
    rows = pairs(5)
    with Path("pairs.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "Long?", "answers": ["No.", "Yes. " * 200]}))
    judge = f"stage.judge.model={trained(corpus, ROOMY)}"
    answer = typed(*QUICK, "stage.data=pairs.jsonl", judge, "stage.judge.least_mass=0")
    assert answer.code == 0, answer
    assert "left out as longer than the judge's 1024 positions: 1 pair" in answer.out
    verdicts = map(json.loads, Path("outputs/latest/verdicts.jsonl").read_text().splitlines())
    assert all(0 < own["chance_as_a"] < 1 for own in verdicts)
    assert typed(*QUICK, "stage.data=pairs.jsonl", "stage.judge.rule=no_repetition").code == 0
    assert result()["metrics"]["judge/self_disagreement"] == 0.0
    rows[0]["answers"][0] += "<|endoftext|>"
    Path("pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    said = refused(*QUICK, "stage.data=pairs.jsonl", judge)
    assert said.startswith("stage.data=pairs.jsonl: the question 'Question 0?': a message of")
    pairs(1)
    said = refused(*QUICK, "stage.data=pairs.jsonl", judge, f"stage.criterion={'x' * 1024}")
    assert "has 1024 positions, and no pair" in said


def verdicts_of_the_newest_run():
    lines = Path("outputs/latest/verdicts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_reward_model_judges_by_the_rewards_of_both_answers(corpus):
    rows = pairs(20)
    learned = [
        {"prompt": row["prompt"], "chosen": max(row["answers"], key=len)}
        | {"rejected": min(row["answers"], key=len)}
        for row in rows
    ]
    Path("learned.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in learned))
    answer = typed(
        *("run", "stage=reward", f"model.weights={trained(corpus, ROOMY)}", *ALONE),
        *("stage.data=learned.jsonl", "stage.sequence_length=96", "stage.validation_fraction=0.3"),
        *("stage.steps=30", "stage.global_batch_size=8", "optim.learning_rate=1e-2"),
        *("optim.warmup_steps=1", "outputs=learning"),
    )
    assert answer.code == 0, answer
    words = ("stage.data=pairs.jsonl", "stage.judge.model=learning/latest")
    assert "40 answers, 16 answers at a time" in typed("plan", *QUICK[1:], *words).out
    assert typed(*QUICK, *words).code == 0
    weights = checkpoint.open_weights("learning/latest")
    model = checkpoint.build_model(weights.reader, weights.model_config).eval()
    chat = ChatTemplate(BUILT_IN, Tokenizer.load(weights.tokenizer))

    def reward(prompt, answer):
        row = chat.row((("user", prompt), ("assistant", answer)))
        with torch.no_grad():
            return float(model(torch.tensor([row.tokens]))[0, row.last_answer[-1]])

    for own in verdicts_of_the_newest_run():
        margin = reward(own["prompt"], own["first"]) - reward(own["prompt"], own["second"])
        assert own["chance_as_a"] == own["chance_as_b"]
        assert own["chance_as_a"] == pytest.approx(1 / (1 + math.exp(-margin)), abs=0.02)  # in bf16
    metrics = result()["metrics"]
    assert metrics["judge/accuracy"] == 1.0
    assert metrics["judge/self_disagreement"] == 0.0
    assert typed(*QUICK, *words).out.count("0, and 40 answered before") == 1
    said = refused(*QUICK, *words, "stage.criterion=x")
    assert "goes by what it has learned; leave stage.criterion out" in said
    writer = ("stage=constitution", "stage.writer.model=learning/latest")
    assert "holds no model that writes text" in refused("run", *writer, "tracking=none")


def test_a_model_of_transformers_that_has_no_twin_here_judges_as_it_does_there():
    tokenizer = byte_tokenizer()
    settings = {"vocab_size": len(tokenizer), "hidden_size": 32, "n_layer": 2, "n_head": 4}
    torch.manual_seed(0)
    theirs = transformers.BloomForCausalLM(transformers.BloomConfig(**settings)).eval()
    theirs.save_pretrained("bloom")
    tokenizer.save_pretrained("bloom")
    pairs(3)
    words = ("stage.data=pairs.jsonl", "stage.judge.model=bloom", "stage.judge.least_mass=0")
    answer = typed(*QUICK, *words, "engine.precision=fp32", *ALONE)
    assert answer.code == 0, answer
    chat = ChatTemplate(BUILT_IN, Tokenizer.load(Path("bloom/tokenizer.json")))
    item = Item(
        "Question 0?", *json.loads(Path("pairs.jsonl").read_text().splitlines()[0])["answers"]
    )
    [own] = [one for one in verdicts_of_the_newest_run() if one["prompt"] == item.prompt]
    asked = questions(item, JudgingConfig.criterion)
    for request, chance, first in zip(
        asked, (own["chance_as_a"], own["chance_as_b"]), (0, 1), strict=True
    ):
        with torch.no_grad():
            logits = theirs(torch.tensor([chat.prompt(request.messages)])).logits[0, -1]
        likely = logits[[chat.tokenizer.encode(word)[0] for word in "AB"]].softmax(0)
        assert chance == pytest.approx(float(likely[first]), abs=1e-5)


X = {"model": "x"}


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"rule": "exact"}, "compares with a right answer"),
        ({"rule": "sentense"}, "did you mean sentence"),
        ({"rule": "sentence", **X}, "are two judges"),
        ({"endpoint": "http://127.0.0.1:1/v1"}, "add stage.judge.model=NAME"),
        ({**X, "endpoint": "http://there.org/v1"}, "try https://there.org/v1"),
        ({**X, "endpoint": "https://a:b@there.org"}, "more than an address"),
        ({**X, "endpoint": "https://there.org?key=abc"}, "more than an address"),
        ({**X, "endpoint": "there"}, "must be an address"),
        ({**X, "timeout_seconds": 0}, "timeout_seconds=0 must be greater than 0"),
        ({**X, "least_mass": 2}, "least_mass=2 must lie in"),
        ({**X, "price_in": -1}, "price_in=-1 must be at least 0"),
        ({**X, "retries": -1}, "retries=-1 must be at least 0"),
    ],
)
def test_settings_that_can_not_work_are_refused_with_what_to_type(judge, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        JudgingConfig(data="pairs.jsonl", judge=JudgeConfig(**judge))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "needs a judge; try stage.judge.model=RUN"),
        ("stage.judge.rule=sentence stage.judge.retries=2", "asks no model"),
        ("stage.judge.rule=sentence stage.criterion=x", "a rule goes by itself"),
        (
            "stage.judge.model=x stage.judge.endpoint=http://localhost:1 "
            "stage.judge.key_variable=NOPE",
            "NOPE is not set here; type export NOPE=",
        ),
        ("stage.judge.model=x engine=zero3", "must be whole on each worker; try engine=torch"),
        ("stage.judge.rule=sentence stage.people=pairs.jsonl", "no column chosen"),
        ("stage.judge.rule=sentence stage.data=one.jsonl", "single answers, which people rate"),
        ("stage.judge.rule=sentence stage.data=same.jsonl", "has an answer twice"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_starts(words, said):
    pairs()
    Path("one.jsonl").write_text('{"prompt": "Why?", "answers": ["So."]}\n')
    Path("same.jsonl").write_text('{"prompt": "Why?", "answers": ["So.", "So."]}\n')
    data = () if "stage.data" in words else ("stage.data=pairs.jsonl",)
    assert said in refused(*QUICK, *data, *words.split())
