"""stage=translate as a user types it, on locale data and on files."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from data import Tokenizer, TokenizerConfig
from data.files import cache_root
from data.sources.locale_pairs import locale_pairs
from models.configs import TransformerConfig
from models.decoding import translate
from orchestrator.config import EngineConfig, JobConfig, OptimConfig, ResourcesConfig
from orchestrator.record.lines import read
from orchestrator.stages.examples.published import open_splits
from orchestrator.stages.run import Run
from orchestrator.stages.translate import scoring
from orchestrator.stages.translate.driver import prepare
from orchestrator.stages.translate.pairs import ARRAYS, TOKENIZER, Split, publish_pairs
from orchestrator.stages.translate.stage import TranslateConfig
from orchestrator.training import checkpoint
from tests.orchestrator.typed import refused, typed

PLAIN = (
    *("resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
    *("engine=torch", "engine.precision=fp32", "tracking=none"),
)
SMALL = (
    *("tokenizer.vocab_size=400", "model.layers=1", "model.width=32", "model.heads=2"),
    *("model.dropout=0.1", "stage.pairs=600", "stage.validation_fraction=0.1"),
    *("stage.steps=12", "stage.evaluate_every=6", "stage.checkpoint_every=7"),
    *("stage.global_batch_size=16", "optim.warmup_steps=4", "optim.learning_rate=1e-2"),
)


def metric(run, name="train/loss"):
    lines, _ = read(run / "metrics.jsonl")
    return {line["step"]: line["metrics"][name] for line in lines if name in line["metrics"]}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A short run with dropout, which others must repeat; and its screen."""
    outputs = tmp_path_factory.mktemp("short")
    answer = typed("run", "stage=translate", *PLAIN, *SMALL, f"outputs={outputs}")
    assert answer.code == 0, answer
    return (outputs / "latest").resolve(), answer.out


def published_pairs(count=600):
    tokenizer = TokenizerConfig(vocab_size=400, digits=True)
    return publish_pairs(
        locale_pairs(("en", "fr"), count, 0), "locale", tokenizer,
        validation_fraction=0.1, seed=0, longest=128, cache=cache_root(),
    )  # fmt: skip


def opened(published, tokenizer):
    end = tokenizer.end_of_text
    return open_splits(Split, ARRAYS, published, cache_root(), end=end, start=end)


def test_a_held_out_date_is_never_seen_in_any_form():
    published = published_pairs(3000)
    tokenizer = Tokenizer.load(published.folder(cache_root()) / TOKENIZER)
    train, _ = opened(published, tokenizer)
    bounds = [0, *train.source_ends.tolist()]
    seen = {tokenizer.decode(train.source[start : end - 1]) for start, end in pairwise(bounds)}
    texts = published.texts(cache_root())
    dates = [source for source, _, kind in texts if kind == "dates"]
    assert len(train) == published.train

    def days(sources):
        """Month, day and year of those that are dates, in any of the three forms."""
        found = (re.fullmatch(r"(?:\w+, )?(\w{3})\w* (\d+), (\d{4})", one) for one in sources)
        return {match.groups() for match in found if match}

    assert len(days(dates)) > 100
    assert len(days(seen)) > 1000
    assert not days(dates) & days(seen)


def test_batches_hold_the_tokens_of_their_pairs_whatever_stands_beside_them():
    published = published_pairs()
    folder = published.folder(cache_root())
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    _, held_out = opened(published, tokenizer)
    rows = np.array([0, len(held_out) - 1, 3, 3])
    batch = held_out.batch(rows, rows, np.array([True, True, True, False]))
    for at, row in enumerate(rows):
        source, target, kind = published.texts(cache_root())[row]
        own = batch.source[at][batch.source_mask[at]].tolist()
        assert own == [*tokenizer.encode(source), tokenizer.end_of_text]
        assert published.kinds[batch.kinds[at]] == kind
        wanted = [*tokenizer.encode(target), tokenizer.end_of_text]
        assert batch.target[at, 0] == tokenizer.end_of_text
        assert batch.target[at, 1 : 1 + len(wanted)].tolist() == wanted
        assert batch.loss_mask[at].sum() == (len(wanted) if at < 3 else 0)


def test_no_sentence_about_a_held_out_noun_is_trained_on_though_its_gender_is():
    published = published_pairs(3000)
    tokenizer = Tokenizer.load(published.folder(cache_root()) / TOKENIZER)
    train, _ = opened(published, tokenizer)
    bounds = [0, *train.source_ends.tolist()]
    seen = {tokenizer.decode(train.source[start : end - 1]) for start, end in pairwise(bounds)}
    sentences = [text for text in published.texts(cache_root()) if text[2] == "pronouns"]
    nouns = {source.split()[1] for source, _, _ in sentences}
    assert {"elle" in target.split() for _, target, _ in sentences} == {True, False}
    for noun in nouns:
        assert f"the {noun}" in seen
        assert not any(text.startswith(f"the {noun} ") for text in seen)


def bleu_by_hand(wanted, written):
    """BLEU of texts of words and no punctuation, where every order of n-grams is found."""
    found, total = [0] * 4, [0] * 4
    for want, have in zip(wanted, written, strict=True):
        for n in range(1, 5):
            own, theirs = (
                Counter(zip(*(text.split()[k:] for k in range(n)), strict=False))
                for text in (have, want)
            )
            found[n - 1] += (own & theirs).total()
            total[n - 1] += own.total()
    lengths = [sum(len(text.split()) for text in texts) for texts in (wanted, written)]
    brevity = min(1.0, np.exp(1 - lengths[0] / lengths[1]))
    return 100 * brevity * np.prod([f / t for f, t in zip(found, total, strict=True)]) ** 0.25


# sacrebleu's own cases of chrF (its test/test_chrf.py, without smoothing): hypotheses, references.
@pytest.mark.parametrize(
    ("written", "wanted", "chrf"),
    [
        (["a"], ["a"], 100.0),
        ([""], ["reference"], 0.0),
        (["a b c"], ["abc"], 100.0),
        (["a", "b"], ["a", "c"], 50.0),
        (["aa"], ["ab"], 25.0),
    ],
)
def test_chrf_is_that_of_the_examples_of_sacrebleu(written, wanted, chrf):
    assert scoring.compare(wanted, written)[2] == pytest.approx(chrf, abs=1e-4)


def test_bleu_is_that_of_its_formula():
    wanted = ["the dog bit the man", "it was not unexpected", "the man bit him first today"]
    written = ["the dog bit the man", "it was not surprising", "the man bit him again"]
    exact, bleu, _ = scoring.compare(wanted, written)
    assert exact == pytest.approx(1 / 3)
    assert bleu == pytest.approx(bleu_by_hand(wanted, written), abs=1e-6)
    assert np.isnan(scoring.compare(["829", "0,58"], ["829", "0,58"])[1]), "no four words"


def test_a_run_leaves_what_it_promises(short):
    run, screen = short
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["stage"], result["steps"]) == ("done", "translate", 12)
    assert list(metric(run, "validation/accuracy")) == [6, 12]
    assert {"validation/bleu", "validation/chrf", "validation/dates/accuracy"} <= set(
        result["metrics"]
    )
    for words in ("held-out texts", "chrF", "should be", "orchestrate generate"):
        assert words in screen
    assert (run / "attention.png").read_bytes().startswith(b"\x89PNG")
    kinds = {row[0] for row in json.loads((run / "translation.json").read_text())["data"]}
    assert kinds == {"dates", "numbers", "currencies", "units", "names", "pronouns", "all"}


def test_what_is_exact_is_what_greedy_writing_with_the_saved_weights_finds(short):
    run, _ = short
    saved = checkpoint.find(run)
    model, tokenizer = scoring.load(saved)
    texts = published_pairs().texts(cache_root())
    sources = [[*tokenizer.encode(text), tokenizer.end_of_text] for text, _, _ in texts]
    found = translate(model, sources, 128, end=tokenizer.end_of_text)
    written = [scoring.text_of(tokenizer, own[0].tokens) for own in found]
    exact = np.mean([made == text[1] for made, text in zip(written, texts, strict=True)])
    assert metric(run, "validation/accuracy")[12] == pytest.approx(exact, abs=1e-9)


def test_a_resumed_run_tells_the_very_losses_of_one_that_was_never_stopped(
    short, tmp_path, monkeypatch
):
    run, _ = short
    monkeypatch.chdir(tmp_path)
    start = run / "checkpoints" / "step_00000007"
    answer = typed("run", f"resume={start}", "outputs=outputs")
    assert answer.code == 0, answer
    again = Path("outputs/latest").resolve()
    assert metric(again) == {step: loss for step, loss in metric(run).items() if step > 7}
    for name in ("validation/loss", "validation/bleu"):
        assert metric(again, name)[12] == metric(run, name)[12]
    said = refused("run", f"resume={start}", "outputs=outputs", "stage.pairs=700")
    assert "stage.pairs, stage.validation_fraction and the tokenizer must give the same" in said


def train_on_this_rank(inputs, folder, cache):
    """The job of `short` on one of several ranks under ZeRO 3; returns what it logged."""
    from orchestrator.stages.translate.train import translate as carry_out
    from orchestrator.training import distributed

    records = []
    job = JobConfig(
        stage=TranslateConfig(
            pairs=600, validation_fraction=0.1, steps=12, evaluate_every=6, checkpoint_every=7,
            global_batch_size=16, micro_batch_size=4,
        ),
        model=TransformerConfig(layers=1, width=32, heads=2, max_positions=128, dropout=0.1),
        tokenizer=TokenizerConfig(vocab_size=400, digits=True),
        optim=OptimConfig(
            "adam", learning_rate=1e-2, beta2=0.98, epsilon=1e-9, final_fraction=0.05,
            warmup_steps=4,
        ),
        engine=EngineConfig(zero_stage=3, precision="fp32"),
        resources=ResourcesConfig(workers=distributed.world_size()),
    )  # fmt: skip
    if inputs is None:
        return prepare(job, None, print).inputs
    run = Run(folder, torch.device("cpu"), records.append, lambda: False, cache)
    carry_out(job, inputs, run)
    logged = {}
    for record in records:
        if "metrics" in record and "event" not in record:
            logged.setdefault(record["step"], {}).update(record["metrics"])
    return logged


def test_two_ranks_under_zero_3_tell_the_losses_of_one_process(two, short, tmp_path):
    run, _ = short
    inputs = train_on_this_rank(None, None, None)
    logged, _ = two.run(train_on_this_rank, inputs, tmp_path, cache_root())
    for name in ("train/loss", "validation/loss", "validation/accuracy"):
        found = {step: own[name] for step, own in logged.items() if name in own}
        assert found == pytest.approx(metric(run, name), rel=1e-3), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=gpt_tiny"], "model.family=gpt is no encoder-decoder, and stage=translate needs"),
        (["stage.languages=[en]"], "must be two, source and target"),
        (["stage.languages=[en,klingon]"], "babel has no language 'klingon'"),
        (["stage.data=gone.tsv"], "gone.tsv is no file; give one that ends in"),
        (["stage.data=gone.tsv", "stage.pairs=5"], "stage.pairs=5 has no effect"),
        (["stage.label_smoothing=1"], "stage.label_smoothing=1.0 must be at least 0 and below 1"),
        (["stage.validation_fraction=0"], "stage.validation_fraction=0.0 must lie between 0 and"),
        (["model.max_positions=2"], "left out as longer than model.max_positions=2 tokens"),
        (["stage=pretrain"], "model.family=transformer is no language model"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    settings, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small = [w for w in SMALL if "stage.pairs" not in w or "data" not in str(settings)]
    if "stage=pretrain" in settings:
        assert message in refused("run", "model=transformer", *PLAIN)
        return
    if "model=gpt_tiny" in settings:
        small = [w for w in small if not w.startswith("model.")]
    assert message in refused("run", "stage=translate", *PLAIN, *small, *settings)


def test_a_user_translates_and_looks_at_the_attention_of_the_saved_weights(
    short, tmp_path, monkeypatch
):
    run, _ = short
    monkeypatch.chdir(tmp_path)
    answer = typed("generate", str(run), "--prompt", "May 4, 2021", "--count", "2", "--beams", "3")
    assert answer.code == 0, answer
    assert answer.out.count("---") == 1
    said = refused("generate", str(run), "--prompt", "May 4, 2021", "--top-k", "3")
    assert "--top-k has no effect: an encoder-decoder translates" in said
    looked = typed("attend", str(run), "--text", "May 4", "--target", "4 mai", "--of", "4")
    assert looked.code == 0, looked
    pictures = {f"attention-{kind}.png" for kind in ("encoder", "decoder", "cross")}
    assert {path.name for path in tmp_path.iterdir()} == pictures
    assert "layer 1 head 2: 4 looks at" in looked.out
    assert "--of=June is no word of the text" in refused(
        "attend", str(run), "--text", "May 4", "--target", "4 mai", "--of", "June"
    )
