"""stage=masked: which tokens are masked and by what; and whole runs as a user types them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data import Batch, Tokenizer
from models import build
from models.configs import BertConfig
from orchestrator.record.lines import read
from orchestrator.stages.language.filling import shown
from orchestrator.stages.masked.masking import Masking
from orchestrator.stages.masked.sides import measure, training_frequencies
from orchestrator.stages.masked.train import by_frequencies
from tests.orchestrator.typed import SMALL, refused, typed

TEXT = ["the extraordinary teacher praises the unbelievable student, again and again. "] * 30
RUN = (
    *("stage=masked", "tokenizer=bpe_mask", "tokenizer.vocab_size=300", "stage.steps=12"),
    *(word for word in SMALL if word != "tokenizer=bytes"),
    *("stage.evaluate_every=6", "stage.checkpoint_every=7", "model.dropout=0.1"),
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXT, 290, mask=True)


def batch_of(tokenizer, rows=64, T=40):
    row = [tokenizer.end_of_text, *tokenizer.encode(" ".join(TEXT))]
    row *= 9
    tokens = np.array([row[n : n + T + 1] for n in range(rows)], dtype=np.int64)
    return Batch(tokens, np.ones((rows, T), dtype=np.bool_), np.arange(rows) * 7)


def test_of_the_tokens_to_be_told_80_percent_are_masked_10_are_others_and_10_stay(tokenizer):
    batch = batch_of(tokenizer, rows=1500)
    masked = Masking(tokenizer, 0.15, 0, whole_words=False)(batch)
    chosen, inputs = masked.loss_mask, batch.tokens[:, 1:]
    assert np.array_equal(masked.targets, inputs)
    assert np.array_equal(masked.tokens[~chosen], inputs[~chosen])
    assert not chosen[inputs == tokenizer.end_of_text].any()
    N = chosen.sum()
    assert abs(chosen.mean() - 0.15) < 5 * (0.15 * 0.85 / chosen.size) ** 0.5
    is_mask = masked.tokens[chosen] == tokenizer.mask
    stays = masked.tokens[chosen] == inputs[chosen]
    # One token in V that is put there by chance is the one that was there.
    for share, expected in ((is_mask.mean(), 0.8), (stays.mean(), 0.1 + 0.1 / 290)):
        assert abs(share - expected) < 5 * (expected * (1 - expected) / N) ** 0.5 + 1 / 290
    shown_all = Masking(tokenizer, 0.15, 0, whole_words=False)(batch, all_masked=True)
    assert np.array_equal(shown_all.loss_mask, chosen)
    assert (shown_all.tokens[chosen] == tokenizer.mask).all()
    others = masked.tokens[chosen][~is_mask & ~stays]
    assert len(np.unique(others)) > 0.9 * 290
    assert masked.weight == N


def test_what_is_masked_follows_from_the_sample_whatever_stands_beside_it(tokenizer):
    batch = batch_of(tokenizer)
    masking = Masking(tokenizer, 0.3, 5, whole_words=False)
    masked, moved = masking(batch), np.array([5, 3, 60])
    few = replace(
        batch,
        tokens=batch.tokens[moved],
        loss_mask=batch.loss_mask[moved],
        sample_ids=batch.sample_ids[moved],
    )
    assert np.array_equal(masking(few).tokens, masked.tokens[moved])
    assert np.array_equal(masking(few).loss_mask, masked.loss_mask[moved])
    for other in (
        Masking(tokenizer, 0.3, 6, whole_words=False)(batch),
        masking(replace(batch, sample_ids=batch.sample_ids + 1)),
    ):
        assert (other.loss_mask != masked.loss_mask).mean() > 0.2


def test_a_word_is_told_as_a_whole_or_not_at_all(tokenizer):
    batch = batch_of(tokenizer)
    masked = Masking(tokenizer, 0.3, 0, whole_words=True)(batch)
    several = 0
    for row, chosen in zip(masked.targets.tolist(), masked.loss_mask.tolist(), strict=True):
        pieces = [tokenizer.decode([token]) for token in row]
        for before, piece, *both in zip(pieces, pieces[1:], chosen, chosen[1:], strict=False):
            if before[-1].isalnum() and piece[0].isalnum():
                assert both[0] == both[1]
                several += both[0]
    assert several > 50
    assert 0.15 < masked.loss_mask.mean() < 0.4


def test_without_a_token_for_what_is_masked_nothing_starts(tmp_path, monkeypatch, corpus):
    monkeypatch.chdir(tmp_path)
    words = ("run", *RUN, "data=text", f"data.path={corpus}")
    assert "and tokenizer.kind=bpe has none; try tokenizer=bpe_mask" in refused(
        *(w for w in words if w != "tokenizer=bpe_mask"), "tokenizer=bpe"
    )
    assert "model.family=gpt does not tell masked tokens" in refused(*words, "model=gpt_tiny")
    assert "stage.mask_fraction=1.0 must lie between" in refused(*words, "stage.mask_fraction=1")
    said = refused(*words, 'stage.prompts=["no mask here"]')
    assert "'no mask here' has no <mask> to fill" in said
    assert "are of stage=classify_text" in refused(*words, "model.classes=[a,b]")
    plain = [word for word in words if not word.startswith("stage")]
    said = refused(*plain, "model=bert_tiny")
    assert said.endswith("is no language model, which tells the next token; try stage=masked")


def test_frequencies_are_those_of_the_training_text_and_can_not_beat_the_entropy():
    wanted, shares = torch.tensor([6, 0, 2]), torch.tensor([0.5, 0.25, 0.25]).double()
    loss, right = by_frequencies(wanted, shares)
    assert loss == pytest.approx((6 * np.log(2) + 2 * np.log(4)) / 8)
    assert right == 0.75
    best, _ = by_frequencies(wanted, torch.tensor([0.75, 1e-9, 0.25]).double())
    assert best < loss

    class Text:
        tokens = 6

        def read(self, start, stop):
            return np.array([0, 0, 2, 0, 2, 2], dtype=np.uint16)[start:stop]

    counted = training_frequencies([Text()], 3)
    torch.testing.assert_close(counted, torch.tensor([4, 1, 4]).double() / 9)


def test_a_token_is_shown_on_one_line_with_what_a_usual_font_has():
    assert [shown(own) for own in (" list", " ", "\n\n", "été", "\ufffd", "a\0")] == [
        *("list", "(space)", "\\n\\n", "été", "\\ufffd", "a\\x00")
    ]


def test_a_side_that_is_hidden_changes_nothing_and_one_that_is_seen_does():
    torch.manual_seed(0)
    model = build(BertConfig(vocab_size=31, layers=1, width=16, heads=2, max_positions=12)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    rows = torch.randint(30, (50, 12))
    others = torch.cat([rows[:, :7], torch.randint(30, (50, 5))], 1)  # alike up to the middle
    found, other = (measure(model, own, mask=30).told for own in (rows, others))
    assert found["left"] == other["left"]
    assert found["right"][0] == other["right"][0] == found["both"][0] == found["left"][0]
    assert found["right"][1:] != other["right"][1:]
    assert found["both"][1:] != other["both"][1:]


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A short run, and its screen."""
    outputs = tmp_path_factory.mktemp("masked")
    words = ("data=text", f"data.path={corpus}", f"outputs={outputs}")
    answer = typed("run", *RUN, *words, 'stage.prompts=["the <mask> counts"]')
    assert answer.code == 0, answer
    return (outputs / "latest").resolve(), answer.out


def metric(folder, name):
    lines, _ = read(folder / "metrics.jsonl")
    return {line["step"]: line["metrics"][name] for line in lines if name in line["metrics"]}


def test_a_run_leaves_what_it_promises_and_goes_on_to_the_very_losses(run, tmp_path, monkeypatch):
    folder, screen = run
    for words in ("their frequencies in training", "a blind guess", "likeliest for <mask>"):
        assert words in screen
    assert "what is behind it alone" in screen
    assert (folder / "sides.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    answer = typed("run", f"resume={folder / 'checkpoints' / 'step_00000007'}", "outputs=outputs")
    assert answer.code == 0, answer
    again = Path("outputs/latest").resolve()
    for name in ("train/loss", "validation/loss", "validation/accuracy"):
        before = {step: value for step, value in metric(folder, name).items() if step > 7}
        assert metric(again, name) == before


def test_a_user_fills_a_mask_and_looks_at_the_attention(run, tmp_path, monkeypatch):
    folder, _ = run
    monkeypatch.chdir(tmp_path)
    answer = typed("generate", str(folder), "--prompt", "the <mask> counts", "--count", "3")
    assert answer.code == 0, answer
    lines = answer.out.splitlines()
    assert lines[0] == "<mask> number 1:"
    chances = [float(line.split("%")[0]) for line in lines[1:4]]
    assert chances == sorted(chances, reverse=True)
    assert lines[4].startswith("the")
    assert "<mask>" not in lines[4]
    assert "has no <mask> to fill" in refused("generate", str(folder), "--prompt", "the counts")
    assert "--beams has no effect: a masked model" in refused(
        "generate", str(folder), "--prompt", "a <mask>", "--beams", "2"
    )
    looked = typed("attend", str(folder), "--text", "the model counts", "--of", "model")
    assert looked.code == 0, looked
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert "layer 1 head 1: model looks at" in looked.out


TEXTS = [
    (f"{verb} the {noun} of the {place} now and then", label)
    for label, verbs in (("praise", ("praise", "admire", "thank")), ("blame", ("scold", "doubt")))
    for verb in verbs
    for noun in ("teacher", "student", "model", "count", "list", "word")
    for place in ("school", "town", "house")
]
CLASSIFIER = (
    *("stage=classify_text", "stage.data=texts.csv", "stage.text=said", "stage.label=kind"),
    *("stage.steps=12", "stage.evaluate_every=6", "stage.checkpoint_every=7"),
    *("stage.global_batch_size=8", "optim.warmup_steps=1", "resources=inline"),
    *("resources.gpus_per_worker=0", "engine=torch", "engine.precision=fp32", "tracking=none"),
)


def write_texts(path, rows=TEXTS):
    lines = [f'"{text}",{label}' for text, label in rows]
    path.write_text("\n".join(["said,kind", *lines]) + "\n", encoding="utf-8")


def test_a_masked_model_is_tuned_to_tell_classes_and_goes_on_to_the_very_losses(
    run, tmp_path, monkeypatch
):
    folder, _ = run
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "texts.csv")
    weights = f"model.weights={folder}"
    answer = typed("run", *CLASSIFIER, weights)
    assert answer.code == 0, answer
    said = " ".join(answer.out.split())
    assert "begin anew: classifier.weight, classifier.bias; left behind: head.bias" in said
    assert "class taken for" in said
    tuned = Path("outputs/latest").resolve()
    assert (tuned / "confusion.png").read_bytes().startswith(b"\x89PNG")
    found = metric(tuned, "train/loss")
    assert found[12] < found[1]
    own, theirs = (Tokenizer.load(each / "tokenizer.json") for each in (tuned, folder / "data"))
    assert own.fingerprint == theirs.fingerprint
    again = typed("run", f"resume={tuned / 'checkpoints' / 'step_00000007'}", "outputs=again")
    assert again.code == 0, again
    for name in ("train/loss", "validation/accuracy"):
        before = {step: value for step, value in metric(tuned, name).items() if step > 7}
        assert metric(Path("again/latest").resolve(), name) == before
    told = typed("generate", str(tuned), "--prompt", "thank the teacher of the town")
    assert sorted(line.split()[-1] for line in told.out.splitlines()) == ["blame", "praise"]
    assert sum(float(line.split("%")[0]) for line in told.out.splitlines()) == pytest.approx(100)
    assert "tokenizer.vocab_size=400 has no effect: model.weights brings its own" in refused(
        "run", *CLASSIFIER, weights, "tokenizer.vocab_size=400"
    )
    assert "--beams has no effect: a classifier tells" in refused(
        "generate", str(tuned), "--prompt", "a", "--beams", "2"
    )


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (TEXTS, ["stage.label=sort"], "texts.csv has no column sort; it has said, kind"),
        (TEXTS, ["stage.label=said"], "must be two columns"),
        (TEXTS, ["model=gpt_tiny"], "model.family=gpt tells no classes of texts"),
        (TEXTS, ["model.classes=[a,b]"], "must be those of the texts, ['blame', 'praise']"),
        (TEXTS, ["stage.validation_fraction=1"], "must lie between 0 and 1"),
        ([*TEXTS, ("a text", "")], [], "row 91 has no label in column kind"),
        ([("one", "a"), ("two", "a")], [], "there must be two classes at least"),
        (TEXTS, ["stage.data=gone.csv"], "stage.data=gone.csv is no file"),
    ],
)
def test_texts_that_can_not_be_learned_are_refused(rows, settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "texts.csv", rows)
    assert message in refused("plan", *CLASSIFIER, *settings)
