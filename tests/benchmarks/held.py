"""What each of the four models of PPO takes of a worker's memory, against what the plan says.

    python tests/benchmarks/held.py [--million 20] [--engines zero3_offload zero3] [--workers 2]

Ranks make policy, reference, reward model and critic one after another and take two steps, as a
job does. `state` is what a process has more of for a model: once it is made, and once its first
update has made gradients and optimizer state. `working` is the most beside that in a second look
or update. Megabytes of the rank that has most; planned, measured, planned / measured.
"""

import argparse
import ctypes
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from cluster.connection.starting import ONE_HEAP
from data.files import cache_root
from models.configs import GPTConfig
from models.cost import parameters
from orchestrator.compose import compose_one
from orchestrator.config import EngineConfig
from orchestrator.plan.forecast import HOLES, Forecast, forecast
from orchestrator.plan.timing import Hardware
from orchestrator.stages.ppo.driver import prepare
from orchestrator.stages.ppo.train import Training
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint, engine
from orchestrator.training.hostmemory import keep_freed_memory
from tests.benchmarks.runs import scratch
from tests.benchmarks.starting import MB, forget, resident
from tests.orchestrator.ranks import World
from tests.orchestrator.typed import SHORT

VOCABULARY, PROMPT, ANSWER, MICRO = 8192, 96, 32, 4
SMALL = GPTConfig(
    vocab_size=VOCABULARY, max_positions=PROMPT + ANSWER, layers=1, width=384, heads=6
)
ROLES = ("model", "reference", "reward", "critic")  # in the order in which they are made


def now() -> float:
    """Resident bytes, without what the C library keeps of freed memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident("VmRSS")


@dataclass
class Account:
    """Bytes by role."""

    state: dict[str, float] = field(default_factory=dict)
    working: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, role: str) -> Iterator[None]:
        """Count what the block leaves behind, and the most that it has beside that."""
        before = now()
        forget()
        yield
        most, after = resident("VmHWM"), now()
        self.state[role] = self.state.get(role, 0.0) + after - before
        self.working[role] = most - after


def counted(account: Account, role: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, on the account of a role."""

    def counting(*given: Any, **named: Any) -> Any:
        with account(role):
            return call(*given, **named)

    return counting


class Counted(Training):
    """A run of PPO that counts what its models take."""

    account = Account()

    def trained_role(self, name: str, *given: Any, **named: Any) -> Any:
        """As before."""
        return counted(self.account, name, super().trained_role)(name, *given, **named)

    def frozen_role(self, name: str) -> Any:
        """As before."""
        return counted(self.account, name, super().frozen_role)(name)

    def logprobs(self, role: Any, rollout: Any) -> Any:
        """As before."""
        return counted(self.account, role.name, super().logprobs)(role, rollout)

    def rewards(self, asked: Any) -> Any:
        """As before."""
        return counted(self.account, "reward", super().rewards)(asked)


def steps(words: list[str], folder: Path, tiny: list[str]) -> Account:
    """Two steps on each rank."""
    keep_freed_memory()
    for those in (tiny, words):  # libraries load what they need at first use
        Counted.account = account = Account()
        config = compose_one(those)
        inputs = prepare(config, None, lambda _: None).inputs
        run = Run(folder, torch.device("cpu"), lambda _: None, lambda: False, cache_root())
        training = Counted(config, inputs, run)
        for name, role in (("update_policy", "model"), ("update_critic", "critic")):
            setattr(training, name, counted(account, role, getattr(training, name)))
        for step in (1, 2):
            training.take(step, 1e-4)
            training.position += config.batch.step
            training.updates_done += training.settings.updates
        del training
    return account


def save(model: GPTConfig, root: Path, tokenizer: Path) -> Path:
    """A checkpoint of random weights, by one rank."""
    built = engine.build(model, EngineConfig(name="torch"), None, device=torch.device("cpu"))
    saved = {"model": checkpoint.SavedRole(built.state, model, None)}
    return checkpoint.save(root, 1, saved, tokenizer, {}).path


def inputs(folder: Path) -> Path:
    """Prompts and a tokenizer of so many tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<|endoftext|>": 0, **{f"w{n}": n for n in range(1, VOCABULARY)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    asked = {"role": "user", "content": " ".join(f"w{n}" for n in range(1, PROMPT - 8))}
    rows = [
        {"messages": [{**asked, "content": f"w{n} " + asked["content"]}, ANSWERED]}
        for n in range(1, 200)
    ]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "plain.jinja").write_text(SHORT)
    return folder / "tokenizer.json"


ANSWERED = {"role": "assistant", "content": "w1 w2"}


def words_of(folder: Path, saved: dict[str, Path], name: str, workers: int) -> list[str]:
    """A job of PPO on these weights."""
    return [
        "stage=ppo", f"model.weights={saved['model']}", f"engine={name}", "engine.precision=bf16",
        f"roles.reward.model.weights={saved['reward']}", f"stage.data={folder}/asked.jsonl",
        f"stage.chat_template={folder}/plain.jinja", f"stage.prompt_tokens={PROMPT}",
        f"stage.answer_tokens={ANSWER}", f"stage.global_batch_size={2 * MICRO * workers}",
        f"stage.micro_batch_size={MICRO}", "stage.mini_batches=1", "stage.epochs=1",
        "stage.kl_limit=null", "optim.warmup_steps=0", "tracking=none",
        f"outputs={folder}/outputs",
        f"resources=cpu{workers}" if workers > 1 else "resources=inline",
        "resources.gpus_per_worker=0", "resources.cpus_per_worker=1",
    ]  # fmt: skip


def show(name: str, planned: Forecast, found: list[Account]) -> None:
    """A line for each role, and one for all of them."""
    total, counted_bytes, working, worked = 0.0, 0.0, 0.0, 0.0
    for role in ROLES:
        part = planned.parts[role]
        assert part.working is not None
        most = max(own.state[role] for own in found)
        work = max(own.working[role] for own in found)
        working, worked = max(working, part.working.most), max(worked, work)
        state = part.state.total + part.state.buffers
        total, counted_bytes = total + state, counted_bytes + most
        print(
            f"{name:14} {role:10} state {_three(state, most)}; "
            f"working {_three(part.working.most, work)}"
        )
    print(
        f"{name:14} {'all':10} state {_three(total, counted_bytes)}; with the largest working "
        f"{_three(total + HOLES * working, counted_bytes + worked)}",
        flush=True,
    )


def _three(planned: float, measured: float) -> str:
    return f"{planned / MB:7.1f} {measured / MB:7.1f} {planned / measured:5.2f}"


def main() -> None:
    """Print a table for each engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--million", type=float, default=20, help="parameters of each, about")
    parser.add_argument("--engines", nargs="+", default=["zero3_offload", "zero3"])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ |= ONE_HEAP  # as workers have it
    model = SMALL
    while parameters(model) < options.million * 1e6:
        model = replace(model, layers=model.layers + 1)
    print(f"{parameters(model):,} parameters of each model, {options.workers} workers, bf16")
    with scratch() as folder:
        os.environ["ORCHESTRATE_CACHE"] = str(folder / "cache")
        tokenizer = inputs(folder)
        alone = World(1)
        saved: dict[str, dict[str, Path]] = {}
        for size, own in (("small", SMALL), ("large", model)):
            valued = replace(own, value_head=True)
            saved[size] = {
                name: alone.run(save, kind, folder / size / name, tokenizer)[0]
                for name, kind in (("model", own), ("reward", valued))
            }
        alone.stop()
        for name in options.engines:
            tiny, words = (
                words_of(folder, saved[size], name, options.workers) for size in ("small", "large")
            )
            config = compose_one(words)
            outline = prepare(config, None, lambda _: None).outline
            world = World(options.workers)
            try:
                with tempfile.TemporaryDirectory() as run:
                    found = world.run(steps, words, Path(run), tiny)
            finally:
                world.stop()
            show(name, forecast(config, outline, Hardware()), found)


if __name__ == "__main__":
    main()
