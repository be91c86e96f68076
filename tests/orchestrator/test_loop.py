"""The loop on real ranks: NaN, stops, resuming at the end, evaluation, what is logged when."""

import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from cluster.heart import Heart
from data import DataConfig, TokenizerConfig, evaluation_rows, prepare
from orchestrator.stages.language.objective import next_token
from orchestrator.training import distributed
from orchestrator.training.bad_loss import NonFiniteLoss
from orchestrator.training.engine import build
from orchestrator.training.loop import NothingToTrainOn, evaluate, every
from orchestrator.training.objectives import classification
from orchestrator.training.selection import Selection
from orchestrator.training.state import WEIGHT
from tests.orchestrator import tiny

ENGINES = ("zero0", "zero2", "zero3")


def weights_of(trainer):
    """Copies of this rank's part of the weights."""
    return {own.name: own.tensors[WEIGHT].clone() for own in trainer.state()}


def spoil_loss(trainer, factor):
    forward = trainer.forward
    trainer.forward = lambda *inputs, **named: forward(*inputs, **named) * factor


class NanGradient(torch.autograd.Function):
    """The identity, with a gradient of NaN."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, float("nan"))


def nan_in_the_gradient(names, precision):
    """The loss is finite in step 3, its gradient is not on rank 1; the message and the saves."""
    answer = {}
    for name in names:
        config = tiny.job(name, distributed.world_size(), precision=precision)
        trainer, saved, clean = tiny.build(config), [], tiny.batches(config)

        def spoil(trainer=trainer, clean=clean):
            for step, batches in enumerate(clean, start=1):
                if step == 3 and distributed.rank() == 1:
                    spoil_gradient(trainer)
                yield batches

        saves = {"save_at": every(1)}
        with pytest.raises(NonFiniteLoss) as caught:
            tiny.run(config, trainer, 5, batches=spoil(), save=saved.append, schedule=saves)
        answer[name] = str(caught.value), saved
    return answer


def spoil_gradient(trainer):
    forward = trainer.forward
    trainer.forward = lambda *inputs, **named: NanGradient.apply(forward(*inputs, **named))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_on_one_rank_is_never_saved(two, precision):
    for rank in two.run(nan_in_the_gradient, ("zero0", "zero1", "zero2", "zero3"), precision):
        for name, (message, saved) in rank.items():
            assert "step 3" in message, name
            assert saved == [1, 2], name


def nan_in_a_row(names, poisoned):
    """Train until a row whose embedding is NaN; the message, and whether weights changed since."""
    answer = {}
    for name in names:
        config = tiny.job(name, distributed.world_size())
        trainer, before = tiny.build(config), {}
        clean = tiny.batches(config)

        def spoil(trainer=trainer, before=before, clean=clean):
            for step, batches in enumerate(clean, start=1):
                if step == 3:
                    before |= weights_of(trainer)
                    if distributed.rank() == 1:
                        batches = [replace(b, sample_ids=b.sample_ids + 100) for b in batches]
                        spoil_loss(trainer, float(poisoned))
                yield batches

        logged = []
        with pytest.raises(NonFiniteLoss) as caught:
            tiny.run(
                config, trainer, 5, batches=spoil(), log=lambda step, m, to=logged: to.append(step)
            )
        trainer.forward = None
        same = all(torch.equal(weight, before[n]) for n, weight in weights_of(trainer).items())
        answer[name] = str(caught.value), logged, same
    return answer


@pytest.mark.parametrize("poisoned", ["nan", "inf"])
def test_a_loss_that_is_not_finite_on_one_rank_ends_all_before_the_step(two, poisoned):
    """Rank 1 has rows 20 to 23 of step 3, shown as samples 120 to 123 to tell them apart."""
    for rank in two.run(nan_in_a_row, ENGINES, poisoned):
        for message, logged, same in rank.values():
            assert "step 3" in message
            assert "[120, 121, 122, 123]" in message
            assert logged == [1, 2]
            assert same


def stop_on_one_rank(names, root):
    """One rank is asked to stop while its 4th step runs; what each rank did."""
    answer = {}
    for name in names:
        config = tiny.job(name, distributed.world_size())
        logged, saved = [], []
        outcome = tiny.run(
            config,
            tiny.build(config),
            20,
            log=lambda step, m, to=logged: to.append(step),
            save=saved.append,
            should_stop=lambda seen=logged: distributed.rank() == 1 and len(seen) >= 4,
        )
        answer[name] = logged, saved, outcome.step, outcome.stopped
    return answer


def test_a_stop_on_one_rank_stops_all_at_the_same_step_with_a_checkpoint(two, tmp_path):
    for rank in two.run(stop_on_one_rank, ENGINES, tmp_path):
        assert set(map(str, rank.values())) == {str(([1, 2, 3, 4], [4], 4, True))}


def edges():
    """Resumed at the last step, beyond it, and stopped before the first."""
    config = tiny.job("torch")

    def run(steps, start, stop=False):
        called = []
        outcome = tiny.run(
            config,
            tiny.build(config),
            steps,
            start=start,
            save=lambda step: called.append(("save", step)),
            evaluate=lambda step: called.append(("evaluate", step)) or {},
            log=lambda step, metrics: called.append(("log", step)),
            should_stop=lambda: stop,
        )
        return called, outcome.step, outcome.weight, outcome.stopped

    return run(5, 5), run(5, 8), run(5, 0, stop=True), run(5, 3, stop=True), run(4, 3)


def test_a_run_that_is_already_done_or_stopped_at_once_does_nothing(one):
    done, beyond, stopped, stopped_later, last = one.run(edges)[0]
    assert done == ([], 5, 0, False)
    assert beyond == ([], 8, 0, False)
    assert stopped == ([], 0, 0, True)
    assert stopped_later == ([], 3, 0, True)
    assert last[0] == [("log", 4), ("evaluate", 4), ("save", 4)]


def due():
    config = tiny.job("torch")
    called, metrics = [], []
    tiny.run(
        config,
        tiny.build(config),
        7,
        schedule={"evaluate_at": every(2), "save_at": every(3)},
        flops_per_step=2.5,
        save=lambda step: called.append(("save", step)),
        evaluate=lambda step: called.append(("evaluate", step)) or {},
        log=lambda step, values: metrics.append(values),
        batches=late_at_step_3(config),
    )
    return called, metrics


def late_at_step_3(config):
    for step, batch in enumerate(tiny.batches(config), start=1):
        time.sleep(0.2 * (step == 3))
        yield batch


def test_evaluations_and_checkpoints_come_when_due_and_at_the_end_and_metrics_are_whole(one):
    called, metrics = one.run(due)[0]
    assert [step for kind, step in called if kind == "evaluate"] == [2, 4, 6, 7]
    assert [step for kind, step in called if kind == "save"] == [3, 6, 7]
    for step, values in enumerate(metrics, start=1):
        mask = tiny.rows(np.arange(8 * step)).loss_mask
        assert values["train/tokens"] == mask.sum(), "of all steps so far, for the axis of a curve"
        assert values["train/flops"] == 2.5 * step
        seconds = values["train/step_seconds"]
        own = tiny.rows(np.arange(8 * (step - 1), 8 * step)).loss_mask.sum()
        assert values["train/tokens_per_second"] == pytest.approx(own / seconds)
        waited = values["train/data_wait_fraction"] * seconds
        assert 0.2 <= waited <= seconds if step == 3 else 0 <= waited <= seconds
        assert values["train/learning_rate"] == pytest.approx(1e-2 * min(1, step / 5), rel=0.1)
    seconds = [values["train/seconds"] for values in metrics]
    assert seconds == sorted(seconds)


def early(names):
    """Rank 1's clock alone says that a save is overdue; evaluations that stop getting better."""
    answer = {}
    for name in names:
        config = tiny.job(name, distributed.world_size())
        measured = iter([3.0, 2.0, 2.5, 2.0, 1.0])
        saves, minutes = [], 1e-9 if distributed.rank() == 1 else None
        tiny.run(
            config, tiny.build(config), 3, save=saves.append, schedule={"save_minutes": minutes}
        )
        best = []
        outcome = tiny.run(
            config,
            tiny.build(config),
            20,
            schedule={"evaluate_at": every(3), "save_best": True},
            save=best.append,
            evaluate=lambda step, measured=measured: {"m": next(measured)},
            selection=Selection("m", higher_is_better=False, patience=2, min_delta=0.0),
        )
        answer[name] = saves, best, outcome.step, outcome.stopped, outcome.exhausted
    return answer


def test_all_ranks_save_when_one_is_overdue_and_where_it_is_best_and_end_without_progress(two):
    """Best after 3 and 6; 9 and 12 are no better, which ends the run with a checkpoint."""
    for rank in two.run(early, ("zero1",)):
        for name, found in rank.items():
            assert found == ([1, 2, 3], [3, 6, 12], 12, False, True), name


@pytest.fixture(scope="module")
def prepared(corpus):
    config = DataConfig(source="text", path=str(corpus)), TokenizerConfig(kind="bytes")
    prepare(*config)
    return config


def evaluated(names, prepared, micro_batch):
    """Summed loss and tokens of the validation split; and the same, row by row, by hand."""
    validation = prepare(*prepared).validation
    answer = {}
    for name in names:
        config = tiny.job(name, distributed.world_size(), dropout=0.5)
        config.model.vocab_size = 257
        trainer = tiny.build(config)
        place = distributed.rank(), distributed.world_size()
        rows = evaluation_rows(validation, tiny.T, *place, micro_batch)
        totals = evaluate(trainer, next_token, rows, Heart())
        answer[name] = totals.loss, totals.weight
        assert trainer.model.training
    if distributed.world_size() > 1:
        return answer
    stream = torch.tensor([256, *validation.read(0, validation.tokens).tolist()])
    model, total = tiny.build(config).model.eval(), 0.0
    with torch.no_grad():
        for begin in range(0, len(stream) - 1, tiny.T):
            row = stream[begin : begin + tiny.T + 1]
            scores = model(row[None, :-1])[0].double().log_softmax(-1)
            total -= float(scores.gather(1, row[1:, None]).sum())
    return answer | {"by hand": (total, validation.tokens)}


def test_evaluation_counts_every_token_once_on_any_number_of_ranks(one, two, prepared):
    alone = one.run(evaluated, ("torch", "zero3"), prepared, 7)[0]
    nats, tokens = alone["by hand"]
    for rank in [alone, *two.run(evaluated, ("zero1", "zero3"), prepared, 5)]:
        for got in rank.values():
            assert got == (pytest.approx(nats, rel=1e-5), tokens)


def far_from_uniform(*arguments, **settings):
    """A job whose model says something definite about every token from the start."""
    config = tiny.job(*arguments, **settings)
    config.model.init_std = 0.4
    return config


def packed(names):
    """Summed loss of rows of two documents: evaluated, trained on, and document by document."""
    documents = (np.arange(tiny.T) >= 6).astype(np.int32)
    answer = {}
    for name, precision in names:
        config = far_from_uniform(name, distributed.world_size(), precision=precision)
        place = distributed.rank() * config.batch.micro
        batch = tiny.rows(place + np.arange(config.batch.micro))
        batch = replace(batch, documents=np.tile(documents, (len(batch.tokens), 1)))
        trainer, logged = tiny.build(config), []
        apart = evaluate(trainer, next_token, [batch], Heart())
        together = evaluate(trainer, next_token, [replace(batch, documents=None)], Heart())
        keep = {"log": lambda step, metrics, to=logged: to.append(metrics["train/loss"])}
        tiny.run(config, trainer, 1, batches=iter([[batch]]), **keep)
        trained = logged[0] * apart.weight
        answer[name, precision] = apart.loss, apart.weight, together.loss, trained
    batch = tiny.rows(np.arange(8))
    model = tiny.build(far_from_uniform("torch")).model.eval()
    rows, mask, alone = torch.from_numpy(batch.tokens), torch.from_numpy(batch.loss_mask), 0.0
    with torch.no_grad():
        for part in (slice(0, 6), slice(6, tiny.T)):
            scores = model(rows[:, :-1][:, part]).log_softmax(-1)
            losses = -scores.gather(2, rows[:, 1:][:, part, None])[..., 0]
            alone += float(losses[mask[:, part]].sum())
    return answer, (alone, int(mask.sum()))


def test_documents_of_a_batch_are_kept_apart_in_training_and_evaluation(one, two):
    alone = one.run(packed, [("torch", "fp32"), ("zero3", "fp32"), ("torch", "bf16")])
    for answer, (nats, count) in alone + two.run(packed, [("zero2", "fp32"), ("zero3", "bf16")]):
        for (name, precision), (total, tokens, together, trained) in answer.items():
            near = pytest.approx(nats, rel=1e-4 if precision == "fp32" else 5e-3)
            assert (total, trained, tokens) == (near, near, count), name
            assert abs(together - total) > 0.01 * total, name


@dataclass(frozen=True)
class Points:
    """A micro-batch that has nothing to do with language: rows of numbers, each in a class."""

    features: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray

    @property
    def weight(self):
        return len(self.labels)


def points(ids):
    return Points(
        np.sin(ids[:, None] * np.arange(1.0, 6.0)).astype(np.float32), ids * 7 % 3, np.asarray(ids)
    )


def classify(trainer, batch):
    labels = torch.from_numpy(batch.labels)
    said = classification(trainer.forward(torch.from_numpy(batch.features)), labels)
    return replace(said, counts={"second_class": (labels == 1).sum()})


def network():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def classified(names):
    """Metrics of 2 steps on 12 points each, and of an evaluation with uneven ranks."""
    rank, ranks, answer = distributed.rank(), distributed.world_size(), {}
    for name, precision in names:
        config = tiny.job(name, precision=precision)
        trainer = build(
            network,
            config.engine,
            config.optim,
            device=torch.device("cpu"),
            micro_batch=4,
            accumulation_steps=3 // ranks or 1,
        )
        cuts = np.arange(24).reshape(2, 3, 4) if ranks == 1 else np.arange(24).reshape(2, 2, 6)
        steps = [[points(ids) for ids in step[rank::ranks]] for step in cuts]
        logged = []
        tiny.run(
            config,
            trainer,
            2,
            objective=classify,
            batches=iter(steps),
            log=lambda step, metrics, to=logged: to.append(metrics),
        )
        uneven = [np.arange(30, 33), np.arange(33, 40)] if rank == 0 else []
        alone = [] if ranks == 1 else [np.arange(30, 33)] if rank == 0 else [np.arange(33, 40)]
        chosen = uneven if name != "zero3" or ranks == 1 else alone
        totals = evaluate(trainer, classify, map(points, chosen), Heart())
        answer[name, precision] = logged, totals.metrics("validation")
    return answer


def test_any_objective_is_summed_and_logged_over_micro_batches_and_ranks(one, two):
    torch.manual_seed(0)
    model = network()
    first = points(np.arange(12))
    logits = model(torch.from_numpy(first.features)).detach()
    labels = torch.from_numpy(first.labels)
    expected = {
        "train/loss": float(nn.functional.cross_entropy(logits, labels)),
        "train/accuracy": float((logits.argmax(1) == labels).float().mean()),
        "train/second_class": 4,
        "train/tokens": 12,
    }
    alone = one.run(classified, [("torch", "fp32"), ("zero1", "fp32"), ("zero3", "bf16")])[0]
    last, end = alone["torch", "fp32"][0][1], alone["torch", "fp32"][1]
    assert end["validation/second_class"] == 3
    for rank in (alone, *two.run(classified, [("zero0", "fp32"), ("zero3", "fp32")])):
        for (name, precision), (logged, evaluated) in rank.items():
            near = {"rel": 1e-5} if precision == "fp32" else {"rel": 0.02, "abs": 0.1}
            got = {key: logged[0][key] for key in expected}
            assert got == pytest.approx(expected, **near), name
            for key in ("train/loss", "train/accuracy", "train/second_class"):
                assert logged[1][key] == pytest.approx(last[key], **near), (name, key)
            assert evaluated == pytest.approx(end, **near), name


def without_targets():
    config = tiny.job("torch")
    empty = replace(tiny.rows(np.arange(8)), loss_mask=np.zeros((8, tiny.T), dtype=bool))
    with pytest.raises(NothingToTrainOn, match="no sample of step 1 has a target"):
        tiny.run(config, tiny.build(config), 1, batches=iter([[empty]]))


def test_a_step_without_any_target_is_refused(one):
    one.run(without_targets)
