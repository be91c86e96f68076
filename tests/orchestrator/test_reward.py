"""stage=reward as a user types it, and its parts on ranks."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data import Tokenizer, TokenizerConfig
from data.chat import BUILT_IN
from data.files import cache_root
from data.sources.conversation import Ranking
from orchestrator.config import RoleConfig
from orchestrator.record.checkpoints import newest_valid
from orchestrator.record.lines import read
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.published import open_splits
from orchestrator.stages.reward import scoring
from orchestrator.stages.reward.rankings import ARRAYS, TOKENIZER, Split, publish_rankings
from orchestrator.stages.reward.stage import RewardConfig
from orchestrator.stages.reward.train import loss_of, rewards_of
from orchestrator.training import distributed
from orchestrator.training.engine import build
from orchestrator.training.loop import backward
from orchestrator.training.roles import build_role
from tests.orchestrator import tiny
from tests.orchestrator.typed import refused, typed

PLAIN = (
    *("resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
    *("engine=torch", "engine.precision=fp32", "tracking=none"),
)
SMALL = (
    *("tokenizer=bytes", "model.layers=1", "model.width=32", "model.heads=2"),
    *("stage.global_batch_size=16", "stage.validation_fraction=0.3", "optim.warmup_steps=2"),
    *("stage.steps=40", "stage.checkpoint_every=20", "stage.evaluate_every=20"),
)


@pytest.fixture(scope="module")
def polite(tmp_path_factory):
    """What is typed for pairs of which the polite answer is the better one, short or long."""
    folder = tmp_path_factory.mktemp("polite")
    pairs = [
        {
            "prompt": f"{n} x",
            "chosen": f"please{'!' * (n % 7)}",
            "rejected": f"never{'!' * (n % 5)}",
        }
        for n in range(100)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return ("stage=reward", f"stage.data={folder}/pairs.jsonl", *SMALL, *PLAIN)


def metrics(folder):
    lines, _ = read((folder / "latest").resolve() / "metrics.jsonl")
    return {
        (line["step"], name): value
        for line in lines
        for name, value in line["metrics"].items()
        if name.startswith("validation/") or name == "train/loss"
    }


def test_it_learns_which_answer_is_better_goes_on_from_a_checkpoint_and_is_a_role(polite, tmp_path):
    first = typed("run", *polite, f"outputs={tmp_path}/first")
    assert first.code == 0, first
    found = metrics(tmp_path / "first")
    # All rewards are 0 before the first step: a tie is half right, and nothing is promised.
    assert found[0, "validation/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[1, "train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[0, "validation/accuracy"] == 0.5
    assert found[0, "validation/calibration_error"] == 0
    assert found[40, "validation/accuracy"] == 1
    assert found[40, "validation/accuracy_longer"] == found[40, "validation/accuracy_shorter"] == 1
    assert found[40, "validation/loss"] < 0.3
    assert abs(found[40, "validation/mean_reward"]) < found[40, "validation/reward_std"]
    folder = (tmp_path / "first" / "latest").resolve()
    assert (folder / "calibration.png").stat().st_size > 1000
    for text in ("pairs told apart", "the better one shorter", "calibration error", "never!"):
        assert text in first.out
    again = typed("run", f"resume={folder}/checkpoints/step_00000020", f"outputs={tmp_path}/again")
    assert again.code == 0, again
    after = {key: value for key, value in found.items() if key[0] > 20}
    assert metrics(tmp_path / "again") == after
    tables = [own.out.partition("┏")[2].partition("done:")[0] for own in (first, again)]
    assert tables[0] == tables[1]
    # A role of another job, such as PPO's: it gives the rewards that the run has told.
    newest, _ = newest_valid(folder / "checkpoints")
    config = replace(newest.model_config(), weights=str(newest.path))
    role = build_role(
        "reward",
        RoleConfig(config, tiny.job("torch").engine, None),
        device=torch.device("cpu"),
        seed=0,
    )
    own = Tokenizer.load(newest.tokenizer)
    texts = [f"<|user|>\n1 x\n<|assistant|>\n{answer}" for answer in ("please!", "never!")]
    rows = [[own.start_of_text, *own.encode(text), own.end_of_text] for text in texts]
    kind, rude = (role.engine.forward(torch.tensor([row]))[0, -1].item() for row in rows)
    assert kind > rude
    said = typed("generate", str(folder), "--prompt", "a")
    assert said.code == 2
    assert "does not write text" in said.err


def published(rankings, **options):
    settings = {"sequence_length": 64, "validation_fraction": 0.5, "seed": 0}
    return publish_rankings(
        rankings, "made up", TokenizerConfig("bytes"), (BUILT_IN, "the built-in chat template"),
        cache=cache_root(), **settings | options,
    )  # fmt: skip


def opened(found):
    end = Tokenizer.load(found.folder(cache_root()) / TOKENIZER).end_of_text
    return open_splits(Split, ARRAYS, found, cache_root(), filling=end)


def ranking(number, *answers, scores=None):
    asked = ("user", f"{number}?")
    both = tuple((asked, ("assistant", answer)) for answer in answers)
    return Ranking(both, f"{number}", scores)


MIXED = [
    ranking(n, *(f"{'a' * (n % 4 + k)}" for k in range(1, 3 + n % 2)), scores=None)
    for n in range(24)
]


def test_each_row_ends_with_the_token_that_ends_the_answer_and_starts_where_it_starts():
    train, _ = opened(published(MIXED))
    end = train.filling
    for example in range(len(train)):
        for number, answer in enumerate(train.answers_of(example)):
            row = train.row(answer).tolist()
            assert row[-1] == end
            said = Tokenizer.plain_bytes().decode(row[train.starts[answer] : -1])
            assert set(said) == {"a"}
            assert len(said) >= number + 1
    batch = train.batch(np.arange(3), np.arange(3), np.ones(3, dtype=bool))
    for row, (tokens, length) in enumerate(zip(batch.tokens, batch.lengths, strict=True)):
        assert tokens[:length].tolist() == train.row(batch.rows[row]).tolist()
        assert (tokens[length:] == end).all()


def steps(zero, folder, examples):
    """Losses and gradients' norms of a few steps on rankings of which each rank has a share."""
    split = Split(*(np.load(folder / f"{name}.npy") for name in ARRAYS), filling=0)
    ranks = distributed.world_size()
    config, stage = tiny.job(zero, ranks), RewardConfig(centring=0.1)
    engine = build(
        replace(config.model, vocab_size=300, max_positions=64, value_head=True),
        config.engine,
        config.optim,
        device=torch.device("cpu"),
        micro_batch=4,
    )
    found = []
    for _ in range(3):  # values begin at zero, and so does the gradient of all below them
        total = 0.0
        for batch in evaluation(split, 4, distributed.rank(), ranks):
            summed = backward(
                engine, lambda e, own: loss_of(rewards_of(e, own), own, stage), batch, examples, 0
            )
            total += summed.loss.item() / examples
        found += distributed.sum_over_ranks([total], engine.device)
        found.append(engine.step(1e-2))
    return found


@pytest.mark.parametrize("examples", [3, 1])
def test_zero_and_the_number_of_ranks_change_no_step_though_one_has_nothing_that_counts(
    examples, one, two, tmp_path
):
    train, _ = opened(published([ranking(n, "b" * 9, "a" * (n + 1)) for n in range(40)]))
    rows = train.last[examples - 1]
    length = {"tokens": train.ends[rows - 1], "last": examples, "margins": examples}
    for name in ARRAYS:
        np.save(tmp_path / f"{name}.npy", getattr(train, name)[: length.get(name, rows)])
    [expected] = one.run(steps, "torch", tmp_path, examples)
    for zero in ("zero0", "zero1", "zero2", "zero3") if examples > 1 else ("zero1", "zero3"):
        for answer in two.run(steps, zero, tmp_path, examples):
            assert answer == pytest.approx(expected, rel=1e-4), zero


def test_calibration_is_measured_by_how_often_a_sure_model_is_wrong():
    sure = math.log(9)  # a chance of 90%
    margins = np.array([sure] * 9 + [-sure])
    assert scoring.calibration_error(margins) == pytest.approx(0, abs=1e-12)
    assert scoring.calibration_error(np.array([sure] * 4)) == pytest.approx(0.1)
    assert scoring.calibration_error(np.array([-sure] * 4)) == pytest.approx(0.9)


def test_ratings_are_learned_as_they_are_and_compared_over_all_answers(tmp_path):
    rows = [
        {"prompt": f"{n}", "answer": "good" if n % 3 else "bad", "rating": 4 if n % 3 else 1}
        for n in range(90)
    ]
    (tmp_path / "rated.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer = typed(
        *("run", "stage=reward", f"stage.data={tmp_path}/rated.jsonl", *SMALL, *PLAIN),
        *("stage.loss=squared_error", "optim.learning_rate=1e-2", f"outputs={tmp_path}"),
    )
    assert answer.code == 0, answer
    found = metrics(tmp_path)
    assert found[40, "validation/accuracy"] == 1
    assert found[40, "validation/explained"] > 0.8
    assert (40, "validation/calibration_error") not in found
    assert found[40, "validation/mean_reward"] == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage.loss=hinge"], "stage.loss=hinge"),
        (["stage.loss=squared_error"], "learns ratings, and"),
        (["stage.centring=-1"], "stage.centring=-1.0 must be at least 0"),
        (["stage.rule=sentence"], "it is of the built-in data, and stage.data names other"),
        (["stage.rule=nice", "stage.data=null"], "stage.rule=nice"),
        (["stage.data=rated.jsonl"], "rates each by itself; try stage.loss=squared_error"),
        (["stage.data=alone.jsonl"], "gives 0 examples for training and 1 for validation"),
        (["model=bert_tiny"], "can't have a value head"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    settings, message, polite, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("rated.jsonl").write_text(json.dumps({"prompt": "a", "answer": "b", "rating": 1}))
    Path("alone.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}))
    own = [word.partition("=")[0] for word in settings]
    assert message in refused(
        "run", *(w for w in polite if w.partition("=")[0] not in own), *settings
    )
