"""What a model of transformers costs: counted on the module itself, which is built without memory.

T tokens of a sample.
"""

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from models.configs.hf import HFConfig
from models.formulas.cost import Cost, Flops, Kept, Pass

if TYPE_CHECKING:
    from models.hf.wrapped import HFModel


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
def _built(described: str) -> "HFModel":
    import torch

    from models.hf.encoder_decoder import wrapped

    with torch.device("meta"):
        return cast("HFModel", wrapped(HFConfig(**json.loads(described)))).train()


@cache
def _counted(described: str) -> Cost:
    from torch import nn

    model = _built(described)
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
    return Cost(
        shapes,
        flops,
        kept=lambda own: _kept(described, own),
        trained=trained if frozen else None,
    )


@cache
def _kept(described: str, own: Pass) -> Kept:
    """What autograd holds of a forward pass over tensors without memory: each storage once.

    Without masks (B, 1, T, T): transformers makes one of such tensors in any case, of others where
    a window or padding asks for it. It also repeats the keys and values that heads share then, so
    that models that have such are told some percent too large. What is outside of layers is spread
    over them.
    """
    import torch
    from torch import Tensor, nn
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.autograd.graph import saved_tensors_hooks
    from torch.func import functional_call

    model, B, T = _built(described), own.sequences, own.length
    found: dict[int, Any] = {}  # by storage, which can't be reused while we hold it

    def like(tensor: Tensor) -> Tensor:
        dtype = torch.bfloat16 if own.half and tensor.is_floating_point() else tensor.dtype
        return torch.empty(tensor.shape, dtype=dtype, requires_grad=tensor.requires_grad)

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not (tensor.ndim == 4 and tensor.shape[1] == 1 and tensor.shape[2:] == (T, T)):
            found[storage._cdata] = storage
        return tensor

    with FakeTensorMode(), saved_tensors_hooks(pack, lambda tensor: tensor):
        parameters = {name: like(each) for name, each in model.named_parameters()}
        buffers = {name: like(each) for name, each in model.named_buffers()}
        tokens = torch.zeros(B, T, dtype=torch.int64)
        inputs = (tokens, tokens) if model.config.translates else (tokens,)
        functional_call(model, {**parameters, **buffers}, inputs)
    for each in parameters.values():
        found.pop(each.untyped_storage()._cdata, None)
    whole = sum(storage.nbytes() for storage in found.values())
    layers = max((len(m) for m in model.modules() if isinstance(m, nn.ModuleList)), default=1)
    width = int(getattr(model.theirs.config.get_text_config(), "hidden_size", 0))
    return Kept(layers, whole // layers, own.tokens * width * own.number, whole % layers)
