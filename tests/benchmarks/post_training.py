"""Post-training against TRL: the same tiny GPT-2, texts, batches, lengths and one thread.

    pip install --no-deps trl==1.12.0 accelerate    # in an environment of its own; 1.12 has PPO
    python tests/benchmarks/post_training.py [--only ppo grpo] [--rounds 3] [--trl PYTHON]

Each contender is a command that a user would start, run for few and for more steps: the difference
of their processor time is that of the steps alone, without imports and what is measured before and
after; one run more comes first, which makes what is made once. The contenders take turns, and each
round gives a ratio of samples per second of processor time: conversations, pairs or answers.

Needs transformers, of the extra [test]; PYTHON is one with TRL, by default this one.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator.stages.rewards import RULES
from tests.benchmarks.runs import ROOT, scratch, spread

LAYERS, WIDTH, HEADS, POSITIONS = 2, 64, 4, 256
END = "<|endoftext|>"
SAMPLES = {"sft": 16, "reward": 16, "dpo": 16, "ppo": 64, "grpo": 64, "rloo": 64}  # of a step
STEPS = {
    "sft": (10, 130), "reward": (10, 90), "dpo": (10, 70),
    "ppo": (1, 9), "grpo": (2, 26), "rloo": (2, 26),
}  # fmt: skip
GROUP, ANSWER = 8, 32  # answers to a prompt, their most tokens
RULE = "from_prompt"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
OF_GROUPS = f"stage.group_size={GROUP} stage.kl_coefficient=0.05 stage.sampling_rounds=1"
OURS = {
    "sft": "stage=sft stage.packing=false",
    "reward": "stage=reward",
    "dpo": "stage=dpo stage.answered=0",
    "ppo": "stage=ppo stage.epochs=4 stage.mini_batches=4 stage.kl_coefficient=0.05",
    "grpo": f"stage=grpo {OF_GROUPS}",
    "rloo": f"stage=grpo stage.advantage=rloo {OF_GROUPS}",
}


def write_inputs(folder: Path) -> None:
    """A model, its tokenizer of single bytes, and conversations, pairs and prompts of words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    single = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    single.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    single.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=single, eos_token=END, bos_token=END, pad_token=END, padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    (folder / "template.jinja").write_text(TEMPLATE)
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=WIDTH, n_layer=LAYERS,
            n_head=HEADS, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
            bos_token_id=len(tokenizer) - 1, eos_token_id=len(tokenizer) - 1,
        )
    ).save_pretrained(folder / "model")  # fmt: skip
    rng = random.Random(0)
    known = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 7))) for _ in range(200)]

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(known, k=rng.randint(low, high)))

    asked, told, pairs = [], [], []
    for _ in range(4096):
        prompt, answer, other = text(4, 7), text(5, 9), text(5, 9)
        user, best = {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
        asked.append({"messages": [user, best]})
        told.append({"prompt": prompt})
        pairs.append({"prompt": prompt, "chosen": answer, "rejected": other})
    for name, rows in (("asked", asked), ("prompts", told), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def ours(method: str, steps: int, folder: Path, precision: str = "fp32") -> list[str]:
    """The command of this project."""
    batch = SAMPLES[method]
    data = "pairs" if method in ("reward", "dpo") else "asked"
    settings = [
        *OURS[method].split(), f"stage.steps={steps}", f"stage.global_batch_size={batch}",
        f"stage.data={folder / data}.jsonl", f"stage.chat_template={folder / 'template.jinja'}",
        f"model.weights={folder / 'model'}", f"outputs={folder / 'outputs'}",
        "stage.evaluate_every=100000", "stage.checkpoint_every=null", "tracking=none",
        "resources=inline", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0",
        "engine=torch", f"engine.precision={precision}",
        "optim.warmup_steps=0", "stage.validation_fraction=0.02",
    ]  # fmt: skip
    if method in ("ppo", "grpo", "rloo"):
        settings += [
            f"stage.rule={RULE}", f"stage.answer_tokens={ANSWER}", "stage.prompt_tokens=96",
            "stage.validation_prompts=8", "stage.kl_limit=null",
        ]  # fmt: skip
    else:
        settings += ["stage.sequence_length=192"]
    return [sys.executable, "-m", "orchestrator", "run", *settings]


def train_theirs(method: str, steps: int, folder: Path, precision: str) -> None:
    """TRL's trainer of a method, in a process of its own."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    path = str(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(path)

    def rows(name: str):
        return load_dataset(
            "json", data_files=str(folder / f"{name}.jsonl"), split="train",
            cache_dir=str(folder / "cache"),
        )  # fmt: skip

    def graded():
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
        model.config.pad_token_id = tokenizer.pad_token_id
        return model

    common = {
        "output_dir": str(folder / "theirs"), "use_cpu": True, "bf16": precision == "bf16",
        "report_to": [], "save_strategy": "no", "gradient_checkpointing": False, "logging_steps": 1,
        "disable_tqdm": True,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(path)
    if method == "ppo":
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        prompts = rows("prompts").map(
            lambda row: {
                "input_ids": tokenizer(f"user: {row['prompt']}\nassistant: ")["input_ids"]
            },
            remove_columns=["prompt"],
        )
        settings = PPOConfig(
            **common, per_device_train_batch_size=16, gradient_accumulation_steps=4,
            num_mini_batches=4, num_ppo_epochs=4, response_length=ANSWER, kl_coef=0.05,
            total_episodes=SAMPLES[method] * steps, local_rollout_forward_batch_size=64,
            missing_eos_penalty=None, num_sample_generations=0,
        )  # fmt: skip
        PPOTrainer(
            args=settings, processing_class=tokenizer, model=model,
            ref_model=AutoModelForCausalLM.from_pretrained(path), reward_model=graded(),
            value_model=graded(), train_dataset=prompts, eval_dataset=prompts.select(range(8)),
        ).train()  # fmt: skip
        return
    common |= {"max_steps": steps, "per_device_train_batch_size": SAMPLES[method]}
    if method == "sft":
        from trl import SFTConfig, SFTTrainer

        settings = SFTConfig(**common, max_length=192)
        SFTTrainer(model, settings, train_dataset=rows("asked"), processing_class=tokenizer).train()
    elif method == "reward":
        from trl import RewardConfig, RewardTrainer

        settings = RewardConfig(**common, max_length=192)
        RewardTrainer(
            graded(), settings, train_dataset=rows("pairs"), processing_class=tokenizer
        ).train()
    elif method == "dpo":
        from trl import DPOConfig, DPOTrainer

        settings = DPOConfig(**common, max_length=192)
        DPOTrainer(
            model, None, settings, train_dataset=rows("pairs"), processing_class=tokenizer
        ).train()
    else:
        from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

        def reward(prompts, completions, **others):
            pairs = zip(prompts, completions, strict=True)
            return [RULES[RULE](prompt, text, "") for prompt, text in pairs]

        trainer, config = (
            (GRPOTrainer, GRPOConfig) if method == "grpo" else (RLOOTrainer, RLOOConfig)
        )
        settings = config(**common, num_generations=GROUP, max_completion_length=ANSWER, beta=0.05)
        trainer(
            model=path, reward_funcs=[reward], args=settings, train_dataset=rows("prompts"),
            processing_class=tokenizer,
        ).train()  # fmt: skip


def processor_seconds(command: list[str], folder: Path) -> float:
    """Of a command and all that it has started and waited for."""
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "last.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | quiet, stdout=log, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{(folder / 'last.log').read_text()}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SAMPLES, default=list(SAMPLES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trl", default=sys.executable, help="a Python that has TRL")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--theirs", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        method, steps, folder, precision = options.theirs
        train_theirs(method, int(steps), Path(folder), precision)
        return
    with scratch() as folder:
        write_inputs(folder)
        for method in options.only:
            rates: dict[str, list[float]] = {"ours": [], "theirs": []}

            def seconds_of(name: str, steps: int, method: str = method) -> float:
                command = ours(method, steps, folder, options.precision)
                if name == "theirs":
                    command = [options.trl, __file__, "--theirs", method, str(steps)]
                    command += [str(folder), options.precision]
                return processor_seconds(command, folder)

            for name in rates:  # what is made once: prepared data, compiled modules
                seconds_of(name, STEPS[method][0])
            for _ in range(options.rounds):
                for name, found in rates.items():
                    seconds = [seconds_of(name, steps) for steps in STEPS[method]]
                    samples = SAMPLES[method] * (STEPS[method][1] - STEPS[method][0])
                    found.append(samples / (seconds[1] - seconds[0]))
            ratios = [a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True)]
            print(
                f"{method:7} ours / TRL {spread(ratios)}; {spread(rates['ours'])} and "
                f"{spread(rates['theirs'])} samples per second of processor time",
                flush=True,
            )


if __name__ == "__main__":
    main()
