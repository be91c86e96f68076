"""Low-rank updates of linear layers of a module of transformers, found by the names of its parts.

I inputs, O outputs.
"""

from typing import Any, cast

from torch import Tensor, nn

from models.adapters import LowRank
from models.configs.hf import HFConfig
from models.dropout import number_dropouts


def adapt_theirs(theirs: nn.Module, config: HFConfig) -> None:
    """Freeze a module but for updates of the layers that its config names, which are made here.

    A layer keeps its class and the names of its parameters: what it gives is added to behind it.

    Raises:
        ValueError: a target is the name of no linear layer; tells those there are.
    """
    theirs.requires_grad_(False)
    found = targets_of(theirs)
    for target in config.adapter_targets:
        if target not in found:
            raise ValueError(
                f"model.adapter_targets has {target}, which is no linear layer of model_type="
                f"{config.model_type}; these are: {', '.join(found)}"
            )
    for target in config.adapter_targets or list(found):
        for own in found[target]:
            outputs, inputs = own.weight.shape
            cast(Any, own).lora = LowRank(inputs, outputs, config)
            own.register_forward_hook(_add)
    number_dropouts(theirs)


def targets_of(theirs: nn.Module) -> dict[str, list[nn.Linear]]:
    """The linear layers but the output, by the last part of their names."""
    head = cast(Any, theirs).get_output_embeddings()
    found: dict[str, list[nn.Linear]] = {}
    for name, own in theirs.named_modules():
        if isinstance(own, nn.Linear) and own is not head:
            found.setdefault(name.rpartition(".")[2], []).append(own)
    return found


def _add(own: Any, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """What a layer gives, y (..., O), with the update of its input (..., I)."""
    changed: Tensor = y + own.lora(inputs[0])
    return changed
