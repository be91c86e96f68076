import hashlib
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom

from data.drift import gate
from data.drift.document_drift import UNITS
from data.drift.sketches import GROUPS, sketch_documents
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
        ids = [np.array(by.encode(text)) for text in texts]
        sizes, digests = [len(text.encode()) for text in texts], list(map(digest, texts))
        return sketch_documents(ids, sizes, digests, by, lambda number: identify(texts[number]))

    return of


@pytest.fixture(scope="module")
def reference(sketched):
    return [sketched(written(ENGLISH, 150, seed)) for seed in range(10, 14)]


def found(report):
    return {finding.statistic: finding for finding in report.findings}


def test_unchanged_documents_pass(reference, sketched):
    report = gate(reference, [sketched(written(ENGLISH, 130, 99))])
    assert report.passed, report.lines()
    assert len(report.checked) == 5


def test_another_language_is_found_and_named(reference, sketched):
    report = gate(reference, [sketched(written(GERMAN, 150, 50))])
    assert "en 100.0% -> 0.0%" in found(report)["languages"].words
    assert {"tokens", "bytes per token"} <= found(report).keys()
    assert "fewer -> " in found(report)["tokens"].words


def test_shorter_documents_are_found_and_named(reference, sketched):
    report = gate(reference, [sketched(written(ENGLISH, 150, 51, middle=130))])
    words = found(report)["token lengths"].words
    assert "documents are shorter: median" in words
    middle = words.split("median ")[1].split(" tokens")[0]
    before, after = map(float, middle.split(" -> "))
    assert 0.35 < after / before < 0.6  # made: 130 / 300
    assert "tokens" not in found(report)


def test_more_duplicates_are_found_and_named(reference, sketched):
    same = [sketched(written(ENGLISH, 130, 99))]
    report = gate(reference, same, duplicates=((3, 1000), (200, 1000)))
    assert found(report).keys() == {"duplicates"}
    assert "0.3% -> 20.0% of the records" in found(report)["duplicates"].words
    assert gate(reference, same, duplicates=((30, 1000), (36, 1000))).passed


def test_shuffled_characters_are_found(reference, sketched):
    draw = random.Random(5)
    texts = ["".join(draw.sample(text, len(text))) for text in written(ENGLISH, 150, 54)]
    assert {"tokens", "bytes per token"} <= found(gate(reference, [sketched(texts)])).keys()


def test_another_tokenizer_is_found_and_its_tokens_are_not_compared(sketched):
    poor = Tokenizer.train(written(ENGLISH, 60, 70), 400)
    before = [sketched(written(MIXED, 150, seed)) for seed in (71, 72)]
    report = gate(before, [sketched(written(MIXED, 150, 73), poor)])
    assert report.findings[0].statistic == "tokenizer"
    assert found(report).keys() == {"tokenizer", "bytes per token"}
    assert report.notes == (
        "not compared: tokens: the tokenizers differ",
        "not compared: token lengths: the tokenizers differ",
    )


def test_a_report_is_shown_as_text_and_as_markdown(reference, sketched):
    report = gate(reference, [sketched(written(GERMAN, 60, s)) for s in (56, 57)])
    assert report.markdown().count("| changed |") == len(report.findings)
    assert report.lines()[0] == f"drift: {len(report.findings)} findings in 5 statistics"
    assert report.to_dict()["findings"][0]["words"] in report.lines()[1]


def test_empty_sides_are_refused(reference):
    with pytest.raises(DataError, match="candidate of the drift gate has no documents"):
        gate(reference, [])


BYTES = Tokenizer.plain_bytes()
TOPICS = [np.random.default_rng(t).dirichlet(40 / np.arange(1, 257)) for t in range(12)]


def drawn(documents, rng):
    """A shard of documents with few topics each: their tokens are far from independent."""
    lengths = rng.lognormal(4, 1, documents).astype(int) + 1
    ids = [rng.choice(256, size=n, p=TOPICS[rng.integers(12)]) for n in lengths]
    sizes, digests = [4 * len(own) for own in ids], [rng.bytes(16) for _ in ids]
    return sketch_documents(ids, sizes, digests, BYTES, lambda number: "en")


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
    assert alarms <= binom.isf(0.001, trials, alpha)  # an honest gate fails once in 1,000


REPORT = """
import hashlib, json, random
import numpy as np
import pyarrow as pa
from data.drift import gate, gate_tables
from data.drift.sketches import sketch_documents
from data.drift.table_sketches import sketch_table
from data.tokenizer import Tokenizer

def sketch(seed):
    draw = random.Random(seed)
    texts = [" ".join(draw.choices("abcdeé", k=50)) for _ in range(60)]
    digests = [hashlib.blake2b(t.encode(), digest_size=16).digest() for t in texts]
    tokenizer = Tokenizer.plain_bytes()
    say = lambda number: texts[number][0]
    ids = [np.array(tokenizer.encode(text)) for text in texts]
    return sketch_documents(ids, list(map(len, ids)), digests, tokenizer, say)

def table(seed):
    draw = random.Random(seed)
    words = draw.choices(["x", "y", "zebra"], k=200)
    return sketch_table(pa.table({"w": words, "n": [draw.random() for _ in range(200)]}))

print(sketch(1).to_json(), json.dumps(table(1).to_dict()))
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


def test_many_shards_are_compared_like_few(reference, sketched):
    many = reference * (UNITS // GROUPS // len(reference) + 1)
    assert gate(many, reference).passed
    assert "languages" in found(gate(many, [sketched(written(GERMAN, 150, 58))]))
