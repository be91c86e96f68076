"""stage=dpo as a user types it, on a model that was trained before."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from data import Tokenizer
from data.chat import ChatTemplate
from orchestrator.record.lines import read
from orchestrator.stages.dpo import scoring
from orchestrator.stages.dpo.pairs import Split, last_answer
from orchestrator.stages.dpo.reference import live
from orchestrator.stages.dpo.stage import DPOConfig
from orchestrator.stages.dpo.train import preference_loss, with_kl
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.ragged import joined
from orchestrator.training import distributed, engine, preferences
from orchestrator.training.loop import backward
from tests.orchestrator import tiny
from tests.orchestrator.typed import refused, trained, typed

PLAIN = (
    *("resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
    *("engine=torch", "engine.precision=fp32", "tracking=none"),
)
SHORT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}:{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def asked(corpus, tmp_path_factory):
    """What is typed for pairs of which the polite answer is the better one."""
    folder = tmp_path_factory.mktemp("polite")
    (folder / "short.jinja").write_text(SHORT)
    pairs = [{"prompt": f"{n} x", "chosen": "please", "rejected": "never"} for n in range(60)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return (
        *("stage=dpo", f"model.weights={trained(corpus)}", f"stage.data={folder}/pairs.jsonl"),
        *(f"stage.chat_template={folder}/short.jinja", "stage.sequence_length=32", *PLAIN),
        *("stage.validation_fraction=0.2", "stage.steps=12", "stage.checkpoint_every=6"),
        *("stage.global_batch_size=8", "stage.micro_batch_size=4", "stage.evaluate_every=6"),
        *("optim.warmup_steps=1", "optim.learning_rate=1e-2", "stage.answered=3"),
    )


@pytest.fixture(scope="module")
def first(asked, tmp_path_factory):
    """What a run with a live reference says, and where it is."""
    outputs = tmp_path_factory.mktemp("first")
    answer = typed("run", *asked, "stage.kl_limit=0.01", f"outputs={outputs}")
    assert answer.code == 0, answer
    return answer, outputs


def metrics(folder):
    lines, _ = read((folder / "latest").resolve() / "metrics.jsonl")
    return {
        (line["step"], name): value
        for line in lines
        for name, value in line["metrics"].items()
        if name.endswith(("loss", "margin", "accuracy", "above"))
    }


def test_a_policy_that_is_the_reference_has_ln_2_and_learns_to_prefer(first, tmp_path):
    said, outputs = first
    found = metrics(outputs)
    assert found[0, "validation/margin"] == 0
    assert found[0, "validation/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[1, "train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[12, "validation/accuracy"] == found[12, "validation/above"] == 1
    assert found[12, "validation/loss"] < 0.5
    for text in ("chosen answer likelier", "distance from the reference", "beyond stage.kl_limit"):
        assert text in " ".join(said.out.split()), text
    # Where a run goes on the policy is another model, and the reference must not be.
    start = (outputs / "latest").resolve() / "checkpoints" / "step_00000006"
    again = typed("run", f"resume={start}", f"outputs={tmp_path}/again")
    assert again.code == 0, again
    after = {key: value for key, value in found.items() if key[0] > 6}
    assert metrics(tmp_path / "again") == after
    tables = [own.out.partition("┏")[2].partition("done:")[0] for own in (said, again)]
    assert tables[0] == tables[1]


def test_a_precomputed_reference_gives_the_same_losses_and_is_worked_out_once(
    asked, first, tmp_path
):
    live, outputs = first
    once, again = (
        typed("run", *asked, *own, f"outputs={tmp_path}/{name}")
        for name, own in (
            ("once", ["stage.reference=precomputed"]),
            ("again", ["stage.reference=precomputed"]),
        )
    )
    assert once.code == again.code == 0, (once, again)
    expected = metrics(outputs)
    assert metrics(tmp_path / "once") == pytest.approx(expected, abs=1e-6)
    assert metrics(tmp_path / "again") == metrics(tmp_path / "once")
    assert "reference from" in live.out
    assert not any(text in once.out for text in ("reference from", "distance from the reference"))


@pytest.mark.parametrize("loss", ["ipo", "kto", "simpo", "orpo"])
def test_each_loss_teaches_which_answer_to_prefer(loss, asked, tmp_path):
    answer = typed(
        "run",
        *asked,
        f"stage.loss={loss}",
        "stage.steps=8",
        "stage.answered=0",
        f"outputs={tmp_path}",
    )
    assert answer.code == 0, answer
    found = metrics(tmp_path)
    assert found[8, "validation/loss"] < found[0, "validation/loss"]
    assert found[8, "validation/accuracy"] == 1
    if loss == "kto":
        assert found[0, "validation/loss"] == pytest.approx(0.5, abs=1e-6)


def made(pairs=6, **options):
    """A split whose pair n asks n + 1 times 9 and answers with 10 + n, or 20 + n and more."""
    rows = [
        ([9] * (n + 1), own)
        for n in range(pairs)
        for own in ([10 + n, 0], [20 + n] * (n + 1) + [0])
    ]
    tokens, ends = joined([question + answer for question, answer in rows])
    answers, _ = joined([[0] * len(question) + [1] * len(answer) for question, answer in rows])
    return Split(tokens, answers, ends, filling=0, most_tokens=16, **options)


def test_strangers_ask_as_a_pair_does_and_answer_as_another_whatever_the_batch():
    split = made(with_strangers=True)
    ones = np.ones(2, dtype=bool)
    strangers = split.batch(np.array([1, 4]), np.arange(2), ones).strangers
    assert strangers.tokens[:2].tolist() == [[9, 9, 14, 0, 0, 0, 0, 0], [9, 9, *[24] * 5, 0]]
    assert strangers.answers[:2].sum(1).tolist() == [2, 6]
    alone = split.batch(np.array([1]), np.arange(1), ones[:1]).strangers
    assert strangers.tokens[:2, : alone.tokens.shape[1]].tolist() == alone.tokens.tolist()


def steps(zero, loss, pairs):
    """Losses and gradients' norms of a few steps on pairs of which each rank has a share."""
    ranks = distributed.world_size()
    policy, frozen = tiny.build(tiny.job(zero, ranks)), tiny.job("torch")
    frozen = engine.build(frozen.model, frozen.engine, None, device=torch.device("cpu"), seed=1)
    split, stage = made(pairs, with_strangers=loss == "kto"), DPOConfig(loss=loss)
    reference = live(frozen) if stage.compares else None
    found = []
    for _ in range(2):
        batches = list(evaluation(split, 4, distributed.rank(), ranks))
        if loss == "kto":
            batches = with_kl(policy, reference, batches)
            found.append(batches[0].kl)
        objective = partial(preference_loss, reference=reference, stage=stage)
        parts = [backward(policy, objective, batch, pairs, 0).loss.item() for batch in batches]
        found += distributed.sum_over_ranks([sum(parts) / pairs], policy.device)
        found.append(policy.step(1e-2))
    return found


@pytest.mark.parametrize(("loss", "pairs"), [("kto", 5), ("kto", 1), ("dpo", 5), ("orpo", 5)])
def test_zero_and_the_number_of_ranks_change_no_step_though_one_has_nothing_that_counts(
    loss, pairs, one, two
):
    """Rows of two ranks differ in length; of one pair, a rank has only what fills it up."""
    [expected] = one.run(steps, "torch", loss, pairs)
    for zero in ("zero0", "zero1", "zero2", "zero3") if loss == "dpo" else ("zero1", "zero3"):
        for answer in two.run(steps, zero, loss, pairs):
            assert answer == pytest.approx(expected, rel=1e-4), zero


def of_answers(engine, pairs=6):
    """By hand: log-probabilities (pairs, 2) of the answers of `made`, and their tokens."""
    found, lengths = [], []
    for n in range(pairs):
        for answer in ([10 + n, 0], [20 + n] * (n + 1) + [0]):
            row = torch.tensor([[9] * (n + 1) + answer])
            with torch.no_grad():
                of_each = engine.forward(row)[0].log_softmax(-1)[n:-1]  # of the answer's tokens
            found.append(of_each.gather(1, torch.tensor(answer)[:, None]).sum())
            lengths.append(len(answer))
    return torch.stack(found).view(pairs, 2), torch.tensor(lengths).view(pairs, 2)


@pytest.mark.parametrize("loss", ["dpo", "ipo", "simpo", "orpo"])
def test_a_loss_is_that_of_answers_alone_of_ipo_by_what_each_of_their_tokens_gains(loss):
    config, stage = tiny.job("torch"), DPOConfig(loss=loss)
    policy, frozen = (
        engine.build(config.model, config.engine, None, device=torch.device("cpu"), seed=seed)
        for seed in (0, 1)
    )
    ours, lengths = of_answers(policy)
    gains = ours - of_answers(frozen)[0]
    margin, by_token = (own[:, 0] - own[:, 1] for own in (gains, gains / lengths))
    expected = {
        "dpo": preferences.dpo(margin, stage.beta),
        "ipo": preferences.ipo(by_token, stage.beta),
        "simpo": preferences.simpo(ours, lengths, stage.beta, stage.gap),
        "orpo": preferences.orpo(ours, lengths, stage.beta),
    }
    batch = made().batch(np.arange(6), np.arange(6), np.ones(6, dtype=bool))
    reference = live(frozen) if stage.compares else None
    found = preference_loss(policy, batch, reference=reference, stage=stage).loss
    assert found.item() == pytest.approx(expected[loss].sum().item(), rel=1e-5)


def test_the_distance_of_a_policy_is_that_of_its_answers_and_none_from_itself():
    config = tiny.job("torch")
    policy, other = (
        engine.build(config.model, config.engine, None, device=torch.device("cpu"), seed=seed)
        for seed in (0, 1)
    )
    questions = scoring.Questions.of(made(), [[f"{n}", ""] for n in range(6)], 4, 16)
    answers = scoring.answer(policy, questions, seed=3)
    assert scoring.divergences(policy, policy, questions, answers).tolist() == [0] * 4
    found = scoring.divergences(policy, other, questions, answers)
    for prompt, own, value in zip(questions.prompts, answers, found, strict=True):
        row, by_hand = torch.tensor([prompt + own]), 0.0
        with torch.no_grad():
            ours, theirs = (e.forward(row).log_softmax(-1)[0] for e in (policy, other))
        for place in range(len(prompt), row.shape[1]):
            token = row[0, place]
            by_hand += (ours[place - 1, token] - theirs[place - 1, token]).item()
        assert value == pytest.approx(by_hand, abs=1e-4)


def test_a_reference_has_no_dropout_and_no_gradient_and_padding_and_the_question_do_not_count():
    config = tiny.job("torch", dropout=0.3)
    frozen = engine.build(config.model, config.engine, None, device=torch.device("cpu"))
    frozen.model.train()
    ask, split, ones = live(frozen), made(), np.ones(6, dtype=bool)
    together = ask(split.batch(np.arange(6), np.arange(6), ones))
    assert not together.requires_grad
    assert torch.equal(together, ask(split.batch(np.arange(6), np.arange(6), ones)))
    alone = torch.cat([ask(split.batch(np.array([n]), np.array([n]), ones[:1])) for n in range(6)])
    assert together == pytest.approx(alone, abs=1e-5)
    row = torch.tensor([[9, 9, 11, 0]])  # pair 1 and its chosen answer
    with torch.no_grad():
        frozen.model.eval()
        by_hand = frozen.forward(row)[0].log_softmax(-1)
    assert alone[1, 0].item() == pytest.approx((by_hand[1, 11] + by_hand[2, 0]).item(), abs=1e-5)


def test_an_interval_of_a_mean_holds_it_and_shrinks_with_the_number_of_values():
    few, many = (scoring.interval(np.arange(n) % 2.0, 0) for n in (20, 2000))
    assert few[0] == many[0] == 0.5
    assert few[1] < many[1] < 0.5 < many[2] < few[2]
    assert many[2] - many[1] == pytest.approx(2 * 1.96 * 0.5 / 2000**0.5, rel=0.1)


def test_what_is_asked_and_what_was_answered_before_is_no_part_of_an_answer():
    tokenizer = Tokenizer.plain_bytes()
    talk = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "de")]
    row = ChatTemplate(SHORT, tokenizer).row(talk)
    chosen = [t for t, own in zip(row.tokens, last_answer(row), strict=True) if own]
    assert tokenizer.decode(chosen) == "de<|endoftext|>"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.weights=null"], "add model.weights=RUN, a run of stage=sft"),
        (["stage.label_smoothing=0.5"], "must be at least 0 and below 0.5"),
        (["stage.loss=ipo", "stage.label_smoothing=0.1"], "it is for stage.loss=dpo"),
        (["stage.loss=hinge"], "stage.loss=hinge"),
        (["stage.gap=2"], "it is for stage.loss=simpo"),
        (["stage.loss=orpo", "stage.reference=precomputed"], "stage.loss=orpo has no reference"),
        (
            ["stage.loss=simpo", "roles.reference.engine.precision=bf16"],
            "stage.loss=simpo has no reference",
        ),
        (["stage.reference=precomputed", "stage.kl_limit=5"], "it is for a live reference"),
        (["stage.beta=0"], "stage.beta=0.0 must be greater than 0"),
        (["stage.data=same.jsonl"], "same.jsonl: row 1: chosen and rejected are the same"),
        (["stage.data=lost.jsonl"], "lost.jsonl has no column rejected; it has chosen, prompt"),
        (["stage.sequence_length=64"], "is longer than model.max_positions=32"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    settings, message, asked, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    lost = {"chosen": "b", "prompt": "a"}
    Path("lost.jsonl").write_text(json.dumps(lost))
    Path("same.jsonl").write_text(json.dumps(lost | {"rejected": "b"}))
    own = [word.partition("=")[0] for word in settings]
    words = [word for word in asked if word.partition("=")[0] not in own]
    assert message in refused("run", *words, *settings)
