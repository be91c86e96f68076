"""A rollout engine of transformers, behind the protocol by which vLLM is asked.

It is another implementation of the same models, small enough for every run of the tests. Mistakes
are made on demand: what VLLM_FORGETS names is not taken over, and answers are drawn at a
temperature of VLLM_TEMPERATURE.
"""

import os
import tempfile

import torch
import transformers

from orchestrator.training.vllm_process import digest, main


class Transformers:
    """Holds a model of transformers, and answers with whole passes for each token."""

    def __init__(self, asked):
        tempfile.mkstemp(prefix="vllm_dist_")  # as vLLM does
        config = transformers.AutoConfig.for_model(**asked["config"])
        dtype = getattr(torch, asked["precision"])
        self.model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    def load(self, tensors, arriving):
        forgets, found = os.environ.get("VLLM_FORGETS"), {}
        with torch.no_grad():
            for about, flat in zip(tensors, arriving, strict=True):
                whole, held = flat.view(about["shape"]), []
                rows = [part["rows"] for part in about["parts"]]
                for part, own in zip(about["parts"], whole.split(rows), strict=True):
                    parameter = self.model.get_parameter(part["name"])
                    if about["name"] != forgets:
                        parameter.copy_(own.t() if part["transposed"] else own)
                    held.append(parameter.t() if part["transposed"] else parameter)
                found[about["name"]] = digest(torch.cat(held))
        return found

    @torch.no_grad()
    def write(self, asked):
        return [
            self._answer(list(prompt), seed, asked)
            for prompt, seed in zip(asked["prompts"], asked["seeds"], strict=True)
        ]

    def _answer(self, text, seed, asked):
        temperature = float(os.environ.get("VLLM_TEMPERATURE", asked["temperature"]))
        draw, tokens, logprobs = torch.Generator().manual_seed(seed % 2**63), [], []
        while len(tokens) < asked["most_tokens"] and asked["end"] not in tokens:
            logits = self.model(torch.tensor([text + tokens])).logits[0, -1].float()
            likely = (logits / temperature).log_softmax(0)
            tokens.append(int(torch.multinomial(likely.exp(), 1, generator=draw)))
            logprobs.append(float(likely[tokens[-1]]))
        return tokens, logprobs


def about():
    return {"version": transformers.__version__, "device": "cpu", "head_sizes": [8, 16]}


if __name__ == "__main__":
    main(Transformers, about)
