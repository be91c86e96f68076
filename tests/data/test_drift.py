import hashlib
import os
import random
import subprocess
import sys
from math import comb

import numpy as np
import pytest

from data.drift import gate
from data.drift.gate_report import GateReport
from data.drift.sketches import GROUPS, Sketch, sketch_documents
from data.drift.token_facts import TokenFacts, token_facts
from data.files import DataError
from data.tokenizer import Tokenizer

ENGLISH = [
    word
    for line in (
        "the of and to in is you that it he was for on are as with his they at be this have from",
        "or one had by word but not what all were we when your can said there use an each which",
        "she do how their if will up other about out many then them these so some her would make",
        "like him into time has look two more write go see number no way could people my than",
    )
    for word in line.split()
]
GERMAN = [
    word
    for line in (
        "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es",
        "an werden aus er hat dass sie nach wird bei einer um am sind noch wie einem über einen so",
        "zum war haben nur oder aber vor zur bis mehr durch man sein wurde sei prozent hatte kann",
        "gegen vom können schon wenn habe seine mark ihre dann unter wir soll ich eines jahr zwei",
    )
    for word in line.split()
]
MIXED = [*ENGLISH, "été", "déjà", "naïve", "garçon", "мир", "дом", "вода", "книга", "日本", "東京"]


def digest(text):
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def written(words, documents, seed, middle=300):
    """Documents of sentences; the words of each come from a topic of its own."""
    draw = random.Random(seed)
    texts = []
    for _ in range(documents):
        topic = draw.sample(words, 40)
        length = max(5, round(draw.lognormvariate(np.log(middle), 0.6)))
        chosen = [draw.choice(topic if draw.random() < 0.5 else words) for _ in range(length)]
        lines = [" ".join(chosen[i : i + 12]) for i in range(0, length, 12)]
        texts.append(".\n".join(lines) + f" {draw.randrange(100)}.")
    return texts


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([*written(ENGLISH, 60, 0), *written(MIXED, 60, 1)], 400)


@pytest.fixture(scope="module")
def sketched(tokenizer):
    """Texts -> their sketch, with languages by the words of the lists above."""

    def identify(text):
        words = set(text.split())
        return "de" if len(words & set(GERMAN)) > len(words & set(ENGLISH)) else "en"

    def of(texts, by=tokenizer):
        sizes = [len(text.encode()) for text in texts]
        facts, ids = token_facts(by), [np.array(by.encode(text)) for text in texts]
        return sketch_documents(ids, sizes, list(map(digest, texts)), texts, facts, identify)

    return of


@pytest.fixture(scope="module")
def reference(sketched):
    return [sketched(written(ENGLISH, 150, seed)) for seed in range(10, 14)]


def found(report):
    return {finding.statistic: finding for finding in report.findings}


def test_unchanged_documents_pass(reference, sketched):
    report = gate(reference, [sketched(written(ENGLISH, 130, 99))])
    assert report.passed, report.lines()
    assert len(report.checked) == 11


def test_another_language_is_found_and_named(reference, sketched):
    report = gate(reference, [sketched(written(GERMAN, 150, 50))])
    assert "en 100.0% -> 0.0%" in found(report)["languages"].words
    assert {"tokens", "bytes per token", "characters"} <= found(report).keys()
    assert any(" less -> " in line for line in found(report)["tokens"].examples)


def test_shorter_documents_are_found_and_named(reference, sketched):
    report = gate(reference, [sketched(written(ENGLISH, 150, 51, middle=130))])
    words = found(report)["token lengths"].words
    assert "documents are shorter: median" in words
    before, after = (float(x.split()[-1]) for x in words.removesuffix(" tokens").split("->"))
    assert 0.35 < after / before < 0.6  # made: 130 / 300
    assert "tokens" not in found(report)


def test_doubled_documents_are_found_and_named(reference, sketched):
    texts = written(ENGLISH, 80, 52)
    report = gate(reference, [sketched(texts + texts)])
    assert found(report).keys() == {"duplicates", "repeats across shards"}
    assert "0.0% -> 50.0%" in found(report)["duplicates"].words


def test_documents_repeated_in_another_shard_are_found_and_named(reference, sketched):
    texts = written(ENGLISH, 150, 53)
    report = gate(reference, [sketched(texts), sketched(texts)])
    assert found(report).keys() == {"repeats across shards"}
    assert "1.00 -> 2.00 times" in report.findings[0].words


def test_shuffled_characters_are_found_and_named(reference, sketched):
    draw = random.Random(5)
    texts = ["".join(draw.sample(text, len(text))) for text in written(ENGLISH, 150, 54)]
    report = gate(reference, [sketched(texts)])
    assert "same characters" in found(report)["tokens"].words
    assert "bytes per token" in found(report)
    assert "characters" not in found(report)


def test_shuffled_bytes_are_found_and_named(sketched):
    draw = random.Random(6)
    before = [sketched(written(MIXED, 150, seed)) for seed in (60, 61)]
    texts = []
    for text in written(MIXED, 150, 62):
        raw = text.encode()
        texts.append(bytes(draw.sample(raw, len(raw))).decode(errors="replace"))
    report = gate(before, [sketched(texts)])
    assert "decoded with a wrong encoding" in found(report)["characters"].words


def test_a_tokenizer_that_falls_back_to_bytes_is_found_and_named(sketched):
    poor = Tokenizer.train(written(ENGLISH, 60, 70), 400)
    before = [sketched(written(MIXED, 150, seed)) for seed in (71, 72)]
    report = gate(before, [sketched(written(MIXED, 150, 73), poor)])
    assert report.findings[0].statistic == "tokenizer"
    assert "vocabulary lacks these characters" in found(report)["byte fallback"].words
    assert any("different tokenizers" in note for note in report.notes)
    assert "characters" not in found(report)


def test_shards_that_differ_among_themselves_widen_the_thresholds(sketched):
    def shard(seed):
        return sketched(written(ENGLISH, 60, seed, middle=[30, 60, 120][seed % 3]))

    report = gate([shard(seed) for seed in range(80, 92)], [shard(100)])
    alike = gate(
        [sketched(written(ENGLISH, 60, s, middle=60)) for s in range(80, 92)], [shard(100)]
    )
    assert report.passed, report.lines()
    assert report.checked["token lengths"][1] > 1.5 * alike.checked["token lengths"][1]


def test_one_reference_shard_is_said_to_be_weaker(reference, sketched):
    report = gate(reference[:1], [sketched(written(GERMAN, 100, 55))])
    assert "weaker" in report.calibration
    assert "tokens" in found(report)


def test_a_report_survives_a_dict_and_says_the_same(reference, sketched):
    report = gate(reference, [sketched(written(GERMAN, 60, s)) for s in (56, 57)])
    again = GateReport.from_dict(report.to_dict())
    assert again == report
    assert again.markdown() == report.markdown()
    assert report.markdown().count("| changed |") == len(report.findings)
    assert any("farthest candidate shard: number" in line for line in report.lines())


def test_empty_sides_are_refused(reference):
    with pytest.raises(DataError, match="candidate of the drift gate has no documents"):
        gate(reference, [])


FACTS = TokenFacts(300, 299, "t", np.arange(80, 120))
TOPICS = [np.random.default_rng(t).dirichlet(40 / np.arange(1, 300)) for t in range(12)]


def drawn(documents, rng):
    """A shard of documents with few topics each: their tokens are far from independent."""
    lengths = rng.lognormal(4, 1, documents).astype(int) + 1
    ids = [rng.choice(299, size=n, p=TOPICS[rng.integers(12)]) for n in lengths]
    digests = [rng.bytes(16) for _ in ids]
    return sketch_documents(ids, [4 * len(i) for i in ids], digests, None, FACTS)


def at_most(trials, chance):
    """The number of alarms that an honest gate exceeds once in a thousand tests."""
    mass = 0.0
    for k in range(trials + 1):
        mass += comb(trials, k) * chance**k * (1 - chance) ** (trials - k)
        if mass > 0.999:
            return k
    raise AssertionError


@pytest.mark.parametrize(
    ("shards", "candidates", "documents"), [(1, 1, 80), (4, 1, 50), (3, 2, 40)]
)
def test_false_alarms_are_as_rare_as_stated(shards, candidates, documents):
    trials, alpha = 80, 0.05
    alarms = 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, shards])
        sides = [[drawn(documents, rng) for _ in range(n)] for n in (shards, candidates)]
        alarms += not gate(*sides, alpha=alpha, replicates=199, seed=trial).passed
    assert alarms <= at_most(trials, alpha)


REPORT = """
import hashlib, json, random
import numpy as np
import pyarrow as pa
from data.drift import gate
from data.drift.sketches import sketch_documents
from data.drift.table_drift import gate_tables
from data.drift.table_sketches import sketch_table
from data.drift.token_facts import token_facts
from data.tokenizer import Tokenizer

def sketch(seed):
    draw = random.Random(seed)
    texts = [" ".join(draw.choices("abcdeé", k=50)) for _ in range(60)]
    digests = [hashlib.blake2b(t.encode(), digest_size=16).digest() for t in texts]
    sizes = [len(t.encode()) for t in texts]
    tokenizer = Tokenizer.plain_bytes()
    facts = token_facts(tokenizer)
    say = lambda text: text[0]
    ids = [np.array(tokenizer.encode(text)) for text in texts]
    return sketch_documents(ids, sizes, digests, texts, facts, say)

def table(seed):
    draw = random.Random(seed)
    words = draw.choices(["x", "y", "zebra"], k=200)
    return sketch_table(pa.table({"w": words, "n": [draw.random() for _ in range(200)]}))

print(sketch(1).to_json(), table(1).to_json())
print(json.dumps(gate([sketch(1), sketch(2)], [sketch(3)]).to_dict()))
print(json.dumps(gate_tables([table(1), table(2)], [table(3)]).to_dict()))
"""


def test_sketches_and_reports_are_the_same_in_two_processes():
    printed = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", REPORT], env=environment, capture_output=True, check=True
        )
        printed.add(done.stdout)
    assert len(printed) == 1


def test_merged_shards_may_stand_for_single_ones(reference, sketched):
    candidate = [sketched(written(GERMAN, 150, 58))]
    merged = reference[0].merge(reference[1])
    assert isinstance(merged, Sketch)
    assert merged.counts["tokens"].shape[0] == GROUPS
    assert "languages" in found(gate([merged], candidate))
