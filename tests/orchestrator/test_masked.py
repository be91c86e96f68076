"""stage=masked: which tokens are masked and by what; and whole runs as a user types them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import Batch, Tokenizer
from orchestrator.record.lines import read
from orchestrator.stages.masked.masking import Masking
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
    plain = [word for word in words if not word.startswith("stage")]
    said = refused(*plain, "model=bert_tiny")
    assert said.endswith("is no language model, which tells the next token; try stage=masked")


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
    for words in ("the best fixed frequencies", "a blind guess", "likeliest for <mask>"):
        assert words in screen
    assert (folder / "fillings.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "result.json").read_text())["metrics"]
    # No fixed frequencies can do better on these tokens than their own: the entropy.
    assert 0 < found["validation/frequencies_loss"] < np.log(300)
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
