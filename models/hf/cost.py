"""What a model of transformers costs: counted on the module itself, which is built without memory.

T tokens of a sample.
"""

import json
from dataclasses import replace
from functools import cache
from typing import Any

from models.configs.hf import HFConfig
from models.formulas.cost import Cost, Flops


def hf_cost(config: HFConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; `vocab_size` is the tokenizer's, and wins over the config's.

    Training takes 6 operations per token and weight of a matrix that it is multiplied with, and
    12 layers x width x T for attention where the architecture has such, as `gpt_cost` has it; a
    table that tokens look up is no matrix.
    """
    vocab_size = vocab_size or config.vocab_size
    own = replace(config, vocab_size=vocab_size, weights=None, weights_role=None)
    return _counted(json.dumps(vars(own)))


@cache
def _counted(described: str) -> Cost:
    import torch
    from torch import nn

    from models.hf.wrapped import HFModel

    with torch.device("meta"):
        model = HFModel(HFConfig(**json.loads(described)))
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.head_weight
    multiplied = sum(
        p.numel()
        for p in model.parameters()
        if p.ndim == 2 and p is not head and id(p) not in tables
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = model.config.adapter is not None
    theirs: Any = model.theirs.config.get_text_config()
    attends = getattr(theirs, "num_hidden_layers", 0) * getattr(theirs, "hidden_size", 0)

    def flops(T: int) -> Flops:
        attention = 4 * attends * T * T
        blocks = 2 * T * multiplied + attention
        spared = 2 * T * (multiplied + head.numel() - trained) if frozen else 0
        return Flops(blocks + 2 * T * head.numel(), attention, blocks, spared)

    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return Cost(shapes, flops, trained=trained if frozen else None)
