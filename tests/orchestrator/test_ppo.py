"""stage=ppo as a user types it, what it keeps, and the step of several ranks and ZeRO stages."""

import json
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from data import Tokenizer
from data.files import cache_root
from orchestrator.compose import compose_one
from orchestrator.record.checkpoints import newest_valid
from orchestrator.record.lines import read
from orchestrator.stages.ppo.driver import prepare
from orchestrator.stages.ppo.train import Training
from orchestrator.stages.rewards import RULES
from orchestrator.stages.rollouts import keeping
from orchestrator.stages.rollouts.engines import rollout_engines
from orchestrator.stages.rollouts.updating import mini_batches, policy_objective
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint, distributed
from orchestrator.training.loop import evaluating
from orchestrator.training.state import WEIGHT
from tests.orchestrator.test_advantages import gae_of_one
from tests.orchestrator.typed import SHORT, trained, typed


def metrics(folder):
    lines, _ = read(folder / "metrics.jsonl")
    own = ("reward", "kl", "loss", "explained_variance", "kl_coefficient", "ratio_moved")
    own += ("true_reward", "learned_reward", "ptx_loss", "ptx_tokens")
    return {
        (line["step"], name): value
        for line in lines
        for name, value in line["metrics"].items()
        if name.rpartition("/")[2] in own
    }


PLAIN = (
    *("resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0"),
    *("engine=torch", "engine.precision=fp32", "tracking=none"),
)
WORDS = (
    *("stage=ppo", "stage.rule=length", "stage.prompt_tokens=16", "stage.answer_tokens=8"),
    *("resources.cpus_per_worker=1", "resources.gpus_per_worker=0", "engine.precision=fp32"),
    *("tracking=none", "stage.validation_fraction=0.2", "stage.global_batch_size=16"),
    *("stage.micro_batch_size=4", "stage.kl_limit=null", "optim.learning_rate=1e-2"),
    "optim.warmup_steps=1",
    "stage.gae_lambda=0.95",
)


@pytest.fixture(scope="module")
def asked(corpus, tmp_path_factory):
    """What is typed for answers that a model rewards which prefers short ones."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "short.jinja").write_text(SHORT)
    talk = {"role": "assistant", "content": "a b c d"}
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}, talk]} for n in range(40)]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    saved = trained(corpus) / "checkpoints" / "step_00000002"
    pairs = [{"prompt": f"{n}?", "chosen": "a", "rejected": "a b c d"} for n in range(40)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    own = f"stage.chat_template={folder}/short.jinja", f"model.weights={saved}"
    judged = typed(
        *("run", "stage=reward", *own, f"stage.data={folder}/pairs.jsonl", *PLAIN),
        *("stage.steps=2", "stage.checkpoint_every=2", "stage.evaluate_every=2"),
        *("stage.sequence_length=32", "stage.global_batch_size=8", "optim.warmup_steps=1"),
        *("stage.validation_fraction=0.3", f"outputs={folder}"),
    )
    assert judged.code == 0, judged
    end = (folder / "latest").resolve() / "checkpoints" / "step_00000002"
    reward = f"roles.reward.model.weights={end}"
    text = (
        *("data=text", f"data.path={corpus}", "data.sequence_length=16"),
        *("stage.ptx_coefficient=0.5", "stage.ema_decay=0.9"),
    )
    return (*WORDS, *own, *text, f"stage.data={folder}/talks.jsonl", reward)


def two_steps(words, folder):
    """Metrics of the first two steps on the ranks of a world."""
    config, run, training = begun(words, folder)
    with ExitStack() as stack:
        if training.settings.engines:
            end = training.tokens.end_of_text
            engines = rollout_engines(config, run, training.model, end)
            training.engines = stack.enter_context(engines)
        found = []
        for step in (1, 2):
            found.append(training.take(step, 1e-2))
            training.position += config.batch.step
            training.updates_done += training.settings.updates
    kept = {role.name: role.saved for role in training.trained_roles}
    kept["ema"] = training.average.saved
    learned = [
        (f"{name} {own.name}", own.start, own.tensors[WEIGHT])
        for name, saved in kept.items()
        for own in saved.state()
    ]
    return found, distributed.gather_objects(learned)


def begun(words, folder):
    """A run of these words on the ranks of a world, before its first step."""
    config = compose_one(list(words))
    inputs = prepare(config, None, lambda _: None).inputs
    run = Run(folder, torch.device("cpu"), lambda _: None, lambda: False, cache_root())
    return config, run, Training(config, inputs, run)


def joined(shares):
    """Tensors by name, of the slices that the ranks hold."""
    slices = sorted((own for rank in shares for own in rank), key=lambda own: own[:2])
    names = dict.fromkeys(name for name, _, _ in slices)
    return {n: torch.cat([part for name, _, part in slices if name == n]) for n in names}


def test_a_step_is_the_same_on_one_rank_and_two_and_under_every_zero_stage(
    asked, one, two, tmp_path
):
    plain = (*asked, "resources=inline", "engine=torch")
    [(alone, weights)] = one.run(two_steps, plain, tmp_path / "alone")
    assert alone[1]["train/ptx_tokens"] == 2 * 4 * 8 * 16  # updates x rows x tokens
    answers = [keeping.read(keeping.file_of(tmp_path / "alone", step)) for step in (1, 2)]
    beside = ("resources=inline", "resources.workers=2", "stage.engines=2")
    for engine, world, where in (
        ("zero0", two, ["resources=cpu2"]),
        ("zero1", one, ["resources=cpu1"]),
        ("zero2", two, beside),
        ("zero3", two, ["resources=cpu2"]),
    ):
        words = (*asked, *where, f"engine={engine}", "stage.micro_batch_size=2")
        folder = tmp_path / engine
        (first, shares), *others = world.run(two_steps, words, folder)
        assert all(other == first for other, _ in others)
        for name, own in joined(shares).items():
            assert torch.allclose(own, joined(weights)[name], atol=1e-5), name
        for own, wanted in zip(first, alone, strict=True):
            assert own == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        for step, wanted in zip((1, 2), answers, strict=True):
            kept = keeping.read(keeping.file_of(folder, step))
            assert [own["tokens"] for own in kept] == [own["tokens"] for own in wanted]


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory):
    """The folder of a run of four steps, and what it has printed."""
    outputs = tmp_path_factory.mktemp("whole")
    answer = typed(
        "run",
        *(*asked, "resources=inline", "engine=torch", f"outputs={outputs}"),
        *("stage.steps=4", "stage.checkpoint_every=2", "stage.evaluate_every=2"),
        *("stage.kl_target=0.01", "stage.kl_horizon=100"),
    )
    assert answer.code == 0, answer
    return (outputs / "latest").resolve(), answer.out


def test_policy_and_critic_learn_are_kept_together_and_go_on_as_they_would_have(whole, tmp_path):
    run, said = whole
    found = metrics(run)
    assert found[1, "train/kl"] == 0
    assert found[1, "critic/explained_variance"] == 0  # its value head begins as 0
    # What is learned from is the model's, what is told of held-out prompts the rule's.
    kept = keeping.read(keeping.file_of(run, 1))
    rewards = [own["reward"] for own in kept]
    assert found[1, "train/reward"] == pytest.approx(sum(rewards) / 16, abs=1e-4)
    lengths = [RULES["length"]("", own["answer"], own["reference"]) for own in kept]
    assert found[1, "train/true_reward"] == pytest.approx(sum(lengths) / 16)
    assert 0 <= found[4, "validation/reward"] <= 1
    told = json.loads((run / "reward_before_and_after.json").read_text())["data"][:2]
    assert [row[0] for row in told] == ["true reward: length", "reward by the model it learns from"]
    for (_, *cells), name in zip(told, ("reward", "learned_reward"), strict=True):
        before, after, _, gain = (float(cell.split()[0]) for cell in cells)
        ends = [found[step, f"validation/{name}"] for step in (0, 4)]
        assert [before, after] == pytest.approx(ends, abs=1e-3)
        assert gain == pytest.approx(ends[1] - ends[0], abs=2e-3)
    assert 0 <= found[4, "ema/reward"] <= 1
    assert "│ averaged" in said.replace("┃", "│")
    assert found[3, "train/kl_coefficient"] != found[4, "train/kl_coefficient"] != 0.02
    start = run / "checkpoints" / "step_00000002"
    again = typed("run", f"resume={start}", f"outputs={tmp_path}/again")
    assert again.code == 0, again
    assert metrics((tmp_path / "again" / "latest").resolve()) == {
        key: value for key, value in found.items() if key[0] > 2
    }
    averages = [
        checkpoint.open_role(checkpoint.read(own / "checkpoints" / "step_00000004"), "ema")
        for own in (run, (tmp_path / "again" / "latest").resolve())
    ]
    assert all(
        torch.equal(*(checkpoint.read_whole(own, name) for own in averages))
        for name in averages[0].names()
    )
    exported = typed("export", str(run), str(tmp_path / "average"), "--role", "ema")
    assert exported.code == 0, exported
    written = typed("generate", str(run), "--prompt", "1?", "--max-new-tokens", "3")
    assert written.code == 0, written  # of its models the one that writes
    told = typed("rollouts", str(run), "--count", "1")
    assert "step 4: 16 answers, reward 0." in told.out
    best = max(keeping.read(keeping.file_of(run, 4)), key=lambda own: own["reward"])
    assert f"best: answer {best['answer_id']}, reward {best['reward']:.3f}" in told.out
    shown = keeping.file_of(run, 4).with_name(keeping.SHOWN)
    table = json.loads(shown.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    for row, own in zip(rows, keeping.read(keeping.file_of(run, 4)), strict=True):
        assert {
            name: str(own[name]) for name in ("prompt", "answer", "reward")
        }.items() <= row.items()
        pairs = zip(own["tokens"], own["token_advantages"], strict=True)
        assert row["token_advantages"] == " ".join(f"{token!r} {a:+.2f}" for token, a in pairs)
    sent = [event for event in read(run / "events.jsonl")[0] if event.get("table")]
    assert str(shown.relative_to(run)) in [event["path"] for event in sent], "a table on its page"
    one = typed("rollouts", str(run), "--step", "3", "--answer", "32")
    assert one.out.startswith("answer 32 of step 3")
    assert one.out.count("\n") == 4 + len(keeping.read(keeping.file_of(run, 3))[0]["tokens"])
    assert "it has steps 1 to 4" in typed("rollouts", str(run), "--step", "9").err
    assert "which has 48 to 63" in typed("rollouts", str(run), "--answer", "9").err


def gradient_of(training, learn):
    """What `learn` adds to the policy's gradient."""
    engine = training.model.engine
    learn()
    found = {name: p.grad.clone() for name, p in engine.model.named_parameters()}
    engine.model.zero_grad()
    return found


def gradients(words, folder):
    """Of an optimizer step's answers, of the text beside them, and of both; and what text costs."""
    config, _, training = begun(words, folder)
    asked = training.ask(1)
    experience = training.expect(training.judge(1, asked))
    batches = next(mini_batches(experience, asked.ids, training.ppo, config.batch.micro))
    objective = policy_objective("clip", training.ppo, kl_coefficient=0.0)
    updates, engine = training.update_policy, training.model.engine
    updates.engine = SimpleNamespace(  # all of an engine but its step
        forward=engine.forward, backward=engine.backward, device=engine.device,
        step=lambda rate: 1.0,
    )  # fmt: skip
    text, updates.text, updates.after = updates.text, None, None
    answers = gradient_of(training, lambda: updates(1, objective, batches, 0.0))
    updates.text = text
    both = gradient_of(training, lambda: updates(1, objective, batches, 0.0))
    rows = np.concatenate([own.tokens for own in next(begun(words, folder)[2].text.steps)])
    rows = torch.from_numpy(rows)
    logits = engine.forward(rows[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    plain = gradient_of(training, lambda: (0.5 * loss).backward())
    return answers, plain, both


def test_text_beside_answers_adds_the_gradient_of_its_mean_loss_per_token(asked, one, tmp_path):
    words = (*asked, "resources=inline", "engine=torch")
    [(answers, text, both)] = one.run(gradients, words, tmp_path)
    for name, own in both.items():
        assert torch.allclose(own, answers[name] + text[name], atol=1e-6), name
        assert text[name].abs().max() > 0


def moved(words, folder):
    """How far ratios are from 1 before the policy has learned, summed over each micro-batch."""
    config, _, training = begun(words, folder)
    asked = training.ask(1)
    experience = training.expect(training.judge(1, asked))
    objective = policy_objective("clip", training.ppo, kl_coefficient=0.0)
    steps = mini_batches(experience, asked.ids, training.ppo, config.batch.micro)
    found = [objective(training.model.engine, own) for step in steps for own in step]
    return [float(own.means["ratio_moved"]) for own in found]


def test_the_first_ratio_of_ragged_answers_is_exactly_1_in_bf16_too(asked, one, tmp_path):
    words = (*asked, "resources=inline", "engine=torch", "engine.precision=bf16")
    assert one.run(moved, words, tmp_path) == [[0.0] * 4]


def text_beside(words, folder, updates):
    """The rows of text of some optimizer steps, a token more than each has targets, by number."""
    steps = begun(words, folder)[2].text.steps
    parts = [own for step in islice(steps, *updates) for own in step]
    return {
        int(n): row
        for own in parts
        for n, row in zip(own.sample_ids, own.tokens.tolist(), strict=True)
    }


def test_the_documents_beside_the_answers_of_a_step_are_told(asked, whole, corpus, one, tmp_path):
    words = (*asked, "resources=inline", "engine=torch")
    [rows] = one.run(text_beside, words, tmp_path, (4, 8))  # 4 updates to a step
    run = str(whole[0])
    found = json.loads(typed("data", "explain", "2", run, "--json").out)
    assert [own["sample"] for own in found] == list(range(32, 64))
    tokenizer = Tokenizer.load(trained(corpus) / "checkpoints" / "step_00000002" / "tokenizer.json")
    for own in found:
        row = rows[own["sample"]]
        for piece in own["pieces"]:
            targets = row[1 + piece["start"] :][: piece["tokens"]]
            assert tokenizer.decode(targets) == piece["text"]
        assert sum(piece["tokens"] for piece in own["pieces"]) == 16
    place = found[0]["pieces"][0]["place"]
    seen = json.loads(typed("data", "when", place, run, "--json").out)
    assert (2, 32 * 16) in [(own["step"], own["cursor"]) for own in seen]
    one_of_them = typed("data", "explain", "sample:40", run).out
    assert one_of_them.startswith("step 2 was tokens 512..1,023: 32 sequences of 16 tokens")
    verified = typed("data", "verify", run).out
    assert "run: 2,048 tokens in 4 steps, 0 sequences skipped; each exactly as" in verified


def judged_and_expected(words, folder):
    """Answers with a critic that says something and a reference apart, and their advantages."""
    _, _, training = begun(words, folder)
    torch.manual_seed(0)
    for parameter in training.critic.engine.model.get_submodule("value").parameters():
        torch.nn.init.normal_(parameter)
    asked = training.ask(1)
    judged = training.judge(1, asked)
    apart = 0.3 * torch.randn(judged.old.shape) * judged.rollout.mask
    judged = replace(judged, reference=judged.old - apart)
    found = training.expect(judged)
    parts = judged.rewards, apart, judged.rollout.mask, found.values, found.advantages
    return training.ppo, training.penalty.coefficient, *parts, found.returns


def test_advantages_are_those_of_rewards_less_the_price_of_kl_whitened(asked, one, tmp_path):
    words = (*asked, "resources=inline", "engine=torch", "stage.gamma=0.9", "stage.kl_estimator=k1")
    [(stage, price, rewards, kl, mask, values, advantages, returns)] = one.run(
        judged_and_expected, words, tmp_path
    )
    plain, wanted = [], []
    for row, own in enumerate(mask):
        each = (-price * kl[row, own]).tolist()
        each[-1] += rewards[row].item()
        known = values[row, own].tolist()
        plain += gae_of_one(each, known, stage.gamma, stage.gae_lambda)
        wanted += [a + v for a, v in zip(plain[-len(known) :], known, strict=True)]
    assert returns[mask].tolist() == pytest.approx(wanted, abs=1e-5)
    white = (np.array(plain) - np.mean(plain)) / np.std(plain)
    assert advantages[mask].tolist() == pytest.approx(white.tolist(), abs=1e-4)
    assert values[mask].std() > 0.01
    assert price > 0


def test_an_audit_passes_a_sound_critic_and_names_one_that_sees_the_token_it_values(
    asked, monkeypatch
):
    sound = typed("audit", *asked, "resources=inline")
    assert sound.code == 0, sound
    assert sound.out.count("\npass  critic: ") == 4
    assert "13 checks: 13 passed, 0 failed" in sound.out

    def late(self, own):
        with evaluating(self.critic.engine):
            values = self.critic.engine.forward(own.tokens[:, 1:])
        return torch.where(own.mask, values, 0.0)

    monkeypatch.setattr(Training, "values", late)
    wrong = typed("audit", *asked, "resources=inline")
    assert wrong.code == 1, wrong
    assert "FAIL  critic: a value is that before its token is chosen" in wrong.out


def test_with_adapters_policy_and_critic_learn_updates_alone(asked, tmp_path):
    words = (*asked, "resources=inline", "engine=torch", "model.adapter=lora")
    own = [word for word in words if "ema_decay" not in word]
    answer = typed("run", *own, "stage.steps=2", "stage.evaluate_every=2", f"outputs={tmp_path}")
    assert answer.code == 0, answer
    saved = newest_valid((tmp_path / "latest").resolve() / "checkpoints")[0]
    for name, more in (("model", False), ("critic", True)):
        tensors = set(saved.role(name)[1].tensors)
        updates = {own for own in tensors if ".lora." in own}
        assert updates, name
        assert {own.partition(".")[0] for own in tensors - updates} == (
            {"value"} if more else set()
        )
        reader = checkpoint.open_role(saved, name)
        ups = [checkpoint.read_whole(reader, own) for own in updates if own.endswith(".b")]
        assert any(own.any() for own in ups), "they have learned"
