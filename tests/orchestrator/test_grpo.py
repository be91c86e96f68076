"""stage=grpo as a user types it, on a model that was trained before."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time

import numpy as np
import psutil
import pytest
import torch

from cluster.emulated import emulated_cluster
from orchestrator.record.lines import read
from orchestrator.stages.rollouts import auditing, keeping, training, updating
from orchestrator.training import checkpoint
from orchestrator.training.advantages import last_tokens, penalised_rewards
from orchestrator.training.loop import backward
from orchestrator.training.policy_loss import policy_loss
from orchestrator.training.rollout import sample
from tests.orchestrator.commands import Job, command_of
from tests.orchestrator.typed import SHORT, refused, trained, typed

PLAIN = (
    *("resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
    *("engine=torch", "engine.precision=fp32", "tracking=none"),
)


@pytest.fixture(scope="module")
def asked(corpus, tmp_path_factory):
    """What is typed for answers that should have four words."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "short.jinja").write_text(SHORT)
    talk = [{"role": "user", "content": ""}, {"role": "assistant", "content": "a b c d"}]
    rows = [{"messages": [talk[0] | {"content": f"{n}?"}, talk[1]]} for n in range(40)]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return (
        *("stage=grpo", f"model.weights={trained(corpus)}", f"stage.data={folder}/talks.jsonl"),
        *(f"stage.chat_template={folder}/short.jinja", "stage.rule=length", *PLAIN),
        *("stage.prompt_tokens=16", "stage.answer_tokens=8", "stage.validation_fraction=0.2"),
        *("stage.steps=6", "stage.checkpoint_every=2", "stage.evaluate_every=3"),
        *("stage.global_batch_size=16", "stage.group_size=4", "stage.micro_batch_size=4"),
        *("stage.epochs=2", "stage.mini_batches=2", "optim.learning_rate=1e-2"),
        *("optim.warmup_steps=1", "stage.kl_limit=null", "stage.sampling_rounds=3"),
    )


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory):
    """What that answers, undisturbed, and its run folder."""
    folder = tmp_path_factory.mktemp("whole")
    answer = typed("run", *asked, f"outputs={folder}")
    assert answer.code == 0, answer
    return answer, (folder / "latest").resolve()


def metrics(folder):
    lines, _ = read(folder / "metrics.jsonl")
    own = ("reward", "kl", "loss", "ratio_moved", "sampler_mismatch", "entropy")
    own += ("sampling_rounds", "equal_groups")
    return {
        (line["step"], name): value
        for line in lines
        for name, value in line["metrics"].items()
        if name.rpartition("/")[2] in own
    }


def weights(folder, step=6):
    saved = checkpoint.read(folder / "checkpoints" / f"step_{step:08}")
    reader = checkpoint.open_role(saved, "model")
    found = {}
    for name in reader.names():
        size = torch.Size(reader.shape(name)).numel()
        for key in sorted(reader.keys(name)):
            found[name, key] = reader.read(name, key, 0, size)
    return found


def published_steps(folder):
    return list(folder.glob("checkpoints/step_????????/manifest.json"))


def killed_in(what, step, words):
    """Type a job, in a process of its own, that SIGKILL ends at this part of a step."""
    plain = getattr(training.RolloutTraining, what)

    def deadly(self, *arguments):
        if self.checkpoints.spent.weight == (step - 1) * 16:  # answers of the steps before
            while not self.checkpoints.start and not published_steps(self.run.folder):
                time.sleep(0.05)  # saved behind the steps: there must be one to go on from
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, *arguments)

    def act():
        setattr(training.RolloutTraining, what, deadly)
        print(typed("run", *words))

    child = multiprocessing.get_context("fork").Process(target=act)
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL


def test_killed_while_it_writes_judges_or_learns_a_run_goes_on_with_the_same_answers(
    asked, whole, tmp_path
):
    answer, undisturbed = whole
    found = metrics(undisturbed)
    assert found[0, "validation/kl"] == found[1, "train/kl"] == 0
    assert found[1, "train/sampler_mismatch"] == pytest.approx(1, abs=1e-5)
    assert found[6, "train/kl"] > 0
    rounds = [found[step, "train/sampling_rounds"] for step in range(1, 7)]
    assert max(rounds) > 1
    for step, asked_so_far in zip(range(1, 7), np.cumsum(rounds), strict=True):
        kept = keeping.read(keeping.file_of(undisturbed, step))
        numbers = [own["answer_id"] for own in kept]
        assert max(numbers) < 16 * asked_so_far  # 16 answers a round
        groups = np.array([own["reward"] for own in kept]).reshape(4, 4)
        equal = (groups == groups[:, :1]).all(1)
        assert equal.mean() == found[step, "train/equal_groups"]
        assert rounds[step - 1] == 3 or not equal.any()
    assert "reward: length" in answer.out
    words = [*asked, f"outputs={tmp_path}/part"]
    for what, step in (("write", 3), ("judge", 4), ("told", 6)):
        killed_in(what, step, words)
        run = max(own for own in (tmp_path / "part").glob("*/*") if published_steps(own))
        words = [f"resume={run}", f"outputs={tmp_path}/part"]
    again = typed("run", *words)
    assert again.code == 0, again
    last = (tmp_path / "part" / "latest").resolve()
    for step in (5, 6):
        assert keeping.read(keeping.file_of(last, step)) == keeping.read(
            keeping.file_of(undisturbed, step)
        )
    ours, theirs = weights(last), weights(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    kls = checkpoint.read(last / "checkpoints" / "step_00000006").facts["examples"]["kls"]
    assert kls == [found[step, "train/kl"] for step in range(2, 7)]
    tables = [own.out.partition("┏")[2].partition("done:")[0] for own in (answer, again)]
    assert tables[0] == tables[1]


def test_each_token_of_an_answer_has_what_its_reward_is_above_its_groups(whole):
    for step in range(1, 7):
        kept = keeping.read(keeping.file_of(whole[1], step))
        for group in (kept[start : start + 4] for start in range(0, 16, 4)):
            rewards = np.array([own["reward"] for own in group])
            wanted = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
            for own, advantage in zip(group, wanted, strict=True):
                every = [advantage] * len(own["tokens"])
                assert own["token_advantages"] == pytest.approx(every, abs=5e-3), (
                    "of rounded rewards"
                )


def kill_engine(outputs, killed, step=2):
    """Kill a rollout engine of the job that runs there, after one of its steps."""
    while not list(outputs.glob(f"*/*/rollouts/step_{step:08}.jsonl")):
        time.sleep(0.02)
    children = psutil.Process().children(recursive=True)
    engine = next(own for own in children if "ReplicaWorker" in command_of(own))
    engine.kill()
    killed.append(engine.pid)


def test_an_engine_that_dies_is_replaced_alone_and_its_answers_are_the_same(asked, whole, tmp_path):
    words = [word for word in asked if word != "resources=inline"]
    killed = []
    killing = threading.Thread(target=kill_engine, args=(tmp_path, killed), daemon=True)
    killing.start()
    found = typed("run", *words, "resources=cpu1", "stage.engines=1", f"outputs={tmp_path}")
    assert found.code == 0, found
    assert killed
    assert "it is replaced, and the call made again" in found.out
    assert "1 rollout engine beside them" in found.out
    assert re.search(r"engines +1 x .*: weights .*, cache of 16 answers .*; libraries", found.out)
    run, undisturbed = (tmp_path / "latest").resolve(), whole[1]
    told = json.loads((run / "result.json").read_text())
    assert told["attempts"] == 1
    assert 0 <= told["metrics"]["train/trainer_idle"] <= 1
    assert 0 <= told["metrics"]["train/engines_idle"] <= 1
    for step in range(1, 7):
        own, other = (keeping.read(keeping.file_of(at, step)) for at in (run, undisturbed))
        assert [row["tokens"] for row in own] == [row["tokens"] for row in other]
    ours, theirs = weights(run), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def ahead(asked):
    """What is typed for a run of three steps whose engines are one step ahead."""
    return (
        *("run", *asked, "stage.engines=2", "stage.off_policy_steps=1", "stage.steps=3"),
        *("stage.evaluate_every=3", "stage.validation_prompts=2", "stage.sampling_rounds=1"),
    )


@pytest.fixture(scope="module")
def ahead_in_one_process(ahead, tmp_path_factory):
    """Its run folder, where all lives in one process."""
    folder = tmp_path_factory.mktemp("ahead")
    found = typed(*ahead, f"outputs={folder}")
    assert found.code == 0, found
    return (folder / "latest").resolve()


def test_one_step_off_policy_a_run_that_is_resumed_learns_from_the_same_answers(
    ahead_in_one_process, tmp_path
):
    whole = tmp_path / "2026-01-01" / "whole"
    shutil.copytree(ahead_in_one_process, whole)
    mismatch = [metrics(whole)[step, "train/sampler_mismatch"] for step in (1, 2, 3)]
    assert mismatch[0] == pytest.approx(1, abs=1e-5)  # written by the policy that learns
    assert min(mismatch[1:]) > 1.01  # and these by the one before its updates
    expected, answers = weights(whole, 3), keeping.read(keeping.file_of(whole, 3))
    shutil.rmtree(whole / "checkpoints" / "step_00000003")
    again = typed("run", f"resume={whole}", f"outputs={tmp_path}")
    assert again.code == 0, again
    last = (tmp_path / "latest").resolve()
    assert keeping.read(keeping.file_of(last, 3)) == answers
    found = weights(last, 3)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_step_off_policy_two_workers_learn_the_same_though_one_of_two_engines_is_killed(
    ahead, ahead_in_one_process, tmp_path
):
    alone = ("resources=inline", "engine=torch")
    words = [word for word in ahead[1:] if word not in alone]
    killed, outputs = [], tmp_path / "outputs"
    with emulated_cluster(nodes=1, cpus=4) as cluster:
        killing = threading.Thread(target=kill_engine, args=(outputs, killed, 1), daemon=True)
        killing.start()
        job = Job(
            tmp_path, None, *words, "resources.workers=2", "engine=zero0",
            f"outputs={outputs}", own=(),
            **cluster.environment,
        )  # fmt: skip
        assert job.wait() == 0, job.screen
        assert killed
        assert "it is replaced, and the call made again" in job.screen
        assert cluster.left() == []
    run = (outputs / "latest").resolve()
    assert json.loads((run / "result.json").read_text())["attempts"] == 1
    for step in (1, 2, 3):
        own, other = (keeping.read(keeping.file_of(at, step)) for at in (run, ahead_in_one_process))
        assert [row["tokens"] for row in own] == [row["tokens"] for row in other]
    ours, theirs = weights(run, 3), weights(ahead_in_one_process, 3)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage.off_policy_steps=1"], "and stage.engines=0; add stage.engines=1"),
        (["stage.off_policy_steps=2"], "must be 0 or 1"),
        (["data.sequence_length=8"], "it is for stage.ptx_coefficient, which is 0"),
        (
            ["stage.ptx_coefficient=1", "data.sequence_length=64"],
            "is longer than model.max_positions=32; try data.sequence_length=32",
        ),
        (["stage.importance_limit=3"], "it is for stage.off_policy_steps=1"),
        (["model.weights=null"], "add model.weights=RUN, a run of stage=sft"),
        (["stage.global_batch_size=18"], "must be a multiple of stage.group_size=4; nearest: 16"),
        (["stage.mini_batches=3"], "stage.mini_batches x resources.workers = 4 x 3 x 1 = 12"),
        (["stage.group_size=1"], "nothing to compare an answer with"),
        (["stage.rule=praise"], "stage.rule=praise"),
        (["stage.evaluate_every=null"], "is once an epoch, which has no fixed number of steps"),
        (["stage.loss=gspo"], "set stage.aggregation=sequence"),
        (["stage.kl_estimator=k1"], "has a gradient of 0 on average"),
        (["stage.temperature=0"], "stage.temperature=0.0 must be greater than 0"),
        (["stage.top_k=5"], "stage.top_k"),  # a trainer that knew nothing of it would score wrongly
        (["model.dropout=0.1"], "set model.dropout=0"),
        (["roles.reward.engine.precision=fp32"], "add roles.reward.model.weights=RUN, a run of"),
        (["roles.reward.model.weights=gone"], "roles.reward.model.weights=gone does not exist; `"),
        (["roles.reference.model.weights=OTHER"], "reads other tokens than model.weights="),
        (["roles.reward.model.weights=RUN"], "has no value head, which tells rewards; give a run"),
        (["stage.answer_tokens=24"], "16 + 24 = 40 is more than model.max_positions=32; try"),
        (["stage.prompt_tokens=1"], "40 left out as longer than stage.prompt_tokens=1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    settings, message, asked, corpus, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if any("OTHER" in word for word in settings):
        other = trained(corpus, "tokenizer=bpe", "tokenizer.vocab_size=300")
        settings = [word.replace("OTHER", str(other)) for word in settings]
    settings = [word.replace("RUN", str(trained(corpus))) for word in settings]
    own = [word.partition("=")[0] for word in settings]
    words = [word for word in asked if word.partition("=")[0] not in own]
    assert message in refused("run", *words, *settings)


def test_a_policy_that_runs_away_and_a_reward_that_is_no_number_end_the_run_by_step(
    asked, tmp_path, monkeypatch
):
    words = [word for word in asked if "kl_limit" not in word]
    far = typed("run", *words, "stage.kl_limit=1e-4", f"outputs={tmp_path}/far")
    assert far.code == 1
    assert "the policy of step 2 is" in far.out + far.err
    assert "(mean of 2 steps)" in far.out + far.err
    told = json.loads((tmp_path / "far" / "latest" / "result.json").read_text())["error"]
    assert told["class"] == "numerical"
    assert told["remedy"].startswith("lower optim.learning_rate, or raise stage.kl_coefficient")
    monkeypatch.setitem(training.RULES, "length", lambda *_: float("nan"))
    wrong = typed("run", *asked, f"outputs={tmp_path}/wrong")
    assert wrong.code == 1
    assert "the reward of 16 answers of step 1 is no number" in wrong.out + wrong.err


def too_hot(*own, **named):
    """A sampler of another temperature than the trainer knows of."""
    return sample(*own, **named | {"temperature": 2.0})


def blind_to_ends(now, old, advantages, mask, **how):
    """A loss that takes the tokens that end answers for filling."""
    return policy_loss(now, old, advantages, mask & ~last_tokens(mask), **how)


def one_too_late(*own):
    """Rewards one place behind the end of an answer."""
    return penalised_rewards(*own).roll(1, 1)


def mean_of_means(engine, objective, own, weight, seed):
    """The gradient of a micro-batch's mean, whatever its part of the step."""
    return backward(engine, objective, own, own.weight, seed)


def test_an_audit_passes_what_is_sound_and_names_what_is_not(asked, monkeypatch):
    words = ("audit", *asked, "stage.global_batch_size=64", "stage.temperature=0.7")
    sound = typed(*words)
    assert sound.code == 0, sound
    assert sound.out.count("\npass  ") == 9
    assert re.search(r"filling nowhere: [1-9]\d* of 64 answers end by themselves", sound.out)
    assert "micro-batches of 4, micro-batches of 2, micro-batches of 1, two workers" in sound.out
    assert "its own answers, such as stage=grpo" in typed("audit", "stage=classify").err
    for module, name, broken, said in (
        (training, "sample", too_hot, "sampler and trainer agree on each token"),
        (updating, "policy_loss", blind_to_ends, "the end token is learned where an answer has"),
        (auditing, "penalised_rewards", one_too_late, "each reward lands on the last token"),
        (auditing, "backward", mean_of_means, "does not depend on micro-batch, accumulation and"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            wrong = typed(*words)
        assert wrong.code == 1, wrong
        [line] = [line for line in wrong.out.splitlines() if line.startswith("FAIL")]
        assert said in line
