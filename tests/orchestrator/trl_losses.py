"""Losses as TRL computes them, for test_trl.py: run by a Python that has TRL.

Reads what is asked as JSON from standard input, and writes the losses by name. TRL's own trainers
are built, and their losses called with models that are tables: the logits of a token follow from
the token before it, in float64.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
)
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.post_training import write_inputs


class Table(torch.nn.Module):
    """A model of tokens that looks one token back."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float64)

    def forward(self, input_ids, **_):
        return SimpleNamespace(logits=self.logits[input_ids])


def main(folder):
    asked = json.load(sys.stdin)
    write_inputs(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    small = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": []}
    policy, reference = Table(asked["policy"]), Table(asked["reference"])
    found = {}

    def built(trainer, config, rows, model=None, **settings):
        model = model or AutoModelForCausalLM.from_pretrained(folder / "model")
        made = trainer(
            model=model, args=config(**small, **settings), train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )  # fmt: skip
        made.model.eval()
        made.ref_model = reference
        return made

    def tensor(name, dtype=torch.float64):
        return torch.tensor(asked[name], dtype=dtype)

    rows, mask = tensor("rows", torch.int64), tensor("mask", torch.int64)
    batch = {"input_ids": rows, "attention_mask": torch.ones_like(rows), "completion_mask": mask}
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    dpo = built(DPOTrainer, DPOConfig, pairs)
    dpo.beta = asked["beta"]
    for name, theirs in (("dpo", "sigmoid"), ("ipo", "ipo")):
        dpo.loss_types, dpo.loss_weights = [theirs], [1.0]
        found[name] = float(dpo._compute_loss(policy, dict(batch), return_outputs=False))
    half = len(rows) // 2
    kto = built(KTOTrainer, KTOConfig, [{"prompt": "a", "completion": "b", "label": True}] * 2)
    kto.beta = asked["beta"]
    strangers = {f"KL_{name}": own.roll(1, 0) for name, own in batch.items()}
    labels = torch.arange(len(rows)) < half
    found["kto"] = float(
        kto._compute_loss(policy, {**batch, **strangers, "label": labels}, return_outputs=False)
    )

    logps = tensor("logprobs")  # (B, 2) per token
    cpu = SimpleNamespace(device=torch.device("cpu"))
    own = SimpleNamespace(
        alpha=0.0, accelerator=cpu, loss_type="simpo", simpo_gamma=asked["gap"],
        beta=asked["beta"], label_smoothing=0.0,
    )  # fmt: skip
    found["simpo"] = CPOTrainer.cpo_loss(own, *logps.unbind(1))[0].tolist()
    found["orpo"] = ORPOTrainer.odds_ratio_loss(own, *logps.unbind(1))[0].tolist()

    graded = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1)
    graded.config.pad_token_id = tokenizer.pad_token_id
    reward = built(
        RewardTrainer, RewardConfig, pairs, graded, center_rewards_coefficient=asked["centring"]
    )
    rewards = tensor("rewards").T.reshape(-1, 1)
    inputs = {"margin": tensor("margins"), "attention_mask": torch.ones(1)}
    found["reward"] = float(
        reward.compute_loss(lambda **_: SimpleNamespace(logits=rewards), inputs)
    )

    grpo = GRPOTrainer(
        model=str(folder / "model"), reward_funcs=[lambda **_: [0.0]],
        args=GRPOConfig(
            **small, per_device_train_batch_size=2, num_generations=2, use_bias_correction_kl=False
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}]), processing_class=tokenizer,
    )  # fmt: skip
    grpo.model.eval()
    grpo.beta, grpo.max_completion_length = asked["kl_coefficient"], asked["longest"]
    answers, own_mask = tensor("answers", torch.int64), tensor("answer_mask", torch.int64)
    inputs = {
        "prompt_ids": answers[:, :1], "prompt_mask": torch.ones_like(answers[:, :1]),
        "completion_ids": answers[:, 1:], "completion_mask": own_mask,
        "advantages": tensor("advantages"), "old_per_token_logps": tensor("old"),
        "ref_per_token_logps": tensor("reference_logprobs"),
        "num_items_in_batch": own_mask.sum(),
    }  # fmt: skip
    for name, loss_type, level, low, high in asked["grpo"]:
        grpo.loss_type, grpo.importance_sampling_level = loss_type, level
        grpo.epsilon_low, grpo.epsilon_high = low, high
        found[name] = float(grpo._compute_loss(policy, dict(inputs)))
    Path(asked["out"]).write_text(json.dumps(found))


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(temporary))
