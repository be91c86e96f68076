"""What a model of transformers costs: counted on the module itself, which is built without memory.

T tokens of a sample.
"""

import json
from dataclasses import replace
from functools import cache
from typing import Any

from models.configs.hf import HFConfig
from models.formulas.cost import Cost


def hf_cost(config: HFConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; `vocab_size` is the tokenizer's, and wins over the config's.

    Training takes 6 operations per token and weight of a matrix that it is multiplied with, and
    12 layers x width x T for attention where the architecture has such, as `gpt_cost` has it; a
    table that tokens look up is no matrix.
    """
    own = replace(config, vocab_size=vocab_size or config.vocab_size, weights=None)
    return _counted(json.dumps(vars(own)))


@cache
def _counted(described: str) -> Cost:
    import torch
    from torch import nn

    from models.hf.wrapped import HFModel

    with torch.device("meta"):
        model = HFModel(HFConfig(**json.loads(described)))
    own = [sum(p.numel() for p in each.parameters(recurse=False)) for each in model.modules()]
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.head_weight
    multiplied = sum(
        p.numel() for p in model.parameters() if p.ndim == 2 and (id(p) not in tables or p is head)
    )
    theirs: Any = model.theirs.config.get_text_config()
    attends = getattr(theirs, "num_hidden_layers", 0) * getattr(theirs, "hidden_size", 0)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        largest_layer=max(own),
        flops_per_sample=lambda T: T * (6 * multiplied + 12 * attends * T),
    )
