"""`orchestrate prune`: a smaller or sparser model in a folder, to be trained again.

--sparsity 0.5 sets the half of the blocks' weights that are smallest to zero, wherever they are;
--pattern 2:4 keeps the 2 largest of every 4. Zeros stay zeros when the model is trained again.
--heads and --neurons take whole heads and feed-forward units out of each layer, so that tensors
become smaller. Then `orchestrate run model.weights=FOLDER` trains what is left.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.record.reading import CONFIG, read_settings
from orchestrator.terminal import say

if TYPE_CHECKING:
    from models.configs import GPTConfig
    from models.pruning import Tensors
    from orchestrator.training.checkpoint import Weights

PART = 3  # of steps and rate


def main(argv: Sequence[str]) -> int:
    """Write the folder; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)

    from data.messages import size
    from models import cost
    from models.configs import GPTConfig
    from models.formulas.adapters import stays
    from orchestrator.training import checkpoint

    found = checkpoint.open_weights(checkpoint.located(options.path), options.role)
    config = found.model_config
    if not isinstance(config, GPTConfig) or stays(config) or config.score != "dot":
        raise ValueError(
            f"{found.path} holds no gpt model with dot products and without an adapter beside its "
            "weights, and prune knows no others; name one that does"
        )
    before = {name: checkpoint.read_whole(found.reader, name) for name in found.reader.names()}
    after, smaller = _pruned(before, config, options)
    folder = checkpoint.write_weights(
        found._replace(reader=checkpoint.InMemory(after), model_config=smaller),
        Path(options.folder),
    )
    zeros = sum(int((tensor == 0).sum()) for tensor in after.values())
    for name, own, empty in (("before", config, 0), ("pruned", smaller, zeros)):
        parameters = cost.parameters(own)
        say(
            f"{name}: {own.heads} heads, {own.feed_forward_width:,} neurons a layer; "
            f"{parameters:,} parameters, {empty / parameters:.1%} of them zero; "
            f"{size(4 * parameters)} in fp32"
        )
    say(f"train again: orchestrate run model.weights={folder}{_gently(found)}")
    say(f"how good:    orchestrate run stage=evaluate checkpoint={folder}")
    return 0


def _gently(found: "Weights") -> str:
    """Settings of a training that mends and undoes little: a third of the steps that made the
    weights, at a third of their rate (tests/benchmarks/pruning.py). None where no run tells them.
    """
    config = found.path.parents[1] / CONFIG if len(found.path.parents) > 1 else None
    if found.foreign or config is None or not config.is_file():
        return ""
    rate = read_settings(config)["optim"]["learning_rate"]
    steps, warmup = max(found.step // PART, 1), min(10, found.step // PART)
    return f" stage.steps={steps} optim.learning_rate={rate / PART:.2g} optim.warmup_steps={warmup}"


def _pruned(
    tensors: "Tensors", config: "GPTConfig", options: argparse.Namespace
) -> tuple["Tensors", "GPTConfig"]:
    """What is asked for, one after the other: first what takes whole parts."""
    from models import pruning

    if not any((options.heads, options.neurons, options.sparsity, options.pattern)):
        raise ValueError("nothing is to be pruned; try --sparsity 0.5, or --heads or --neurons")
    for name, has in (("heads", config.heads), ("neurons", config.feed_forward_width)):
        left = getattr(options, name)
        if left is not None and not 0 < left < has:
            raise ValueError(f"--{name} {left} must be at least 1 and below the {has} of the model")
    if options.heads is not None:
        tensors, config = pruning.without_heads(tensors, config, options.heads)
    if options.neurons is not None:
        tensors, config = pruning.without_neurons(tensors, config, options.neurons)
    if options.pattern is not None:
        kept, _, of = options.pattern.partition(":")
        if not (kept.isdecimal() and of.isdecimal() and 0 < int(kept) < int(of)):
            raise ValueError(f"--pattern {options.pattern} must be KEPT:OF; try --pattern 2:4")
        tensors, config = pruning.by_pattern(tensors, config, int(kept), int(of))
    elif options.sparsity is not None:
        if not 0 < options.sparsity < 1:
            raise ValueError(
                f"--sparsity {options.sparsity} must lie between 0 and 1; try --sparsity 0.5"
            )
        tensors, config = pruning.by_magnitude(tensors, config, options.sparsity)
    return tensors, config


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate prune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("path", help="run folder, checkpoint, URL, exported or Hugging Face folder")
    new.add_argument("folder", help="to be made")
    new.add_argument("--role", help="whose weights; needed where the checkpoint has several")
    zeros = new.add_mutually_exclusive_group()
    zeros.add_argument("--sparsity", type=float, metavar="S", help="share of zeros, in 0 to 1")
    zeros.add_argument("--pattern", metavar="N:M", help="N of every M weights stay")
    new.add_argument("--heads", type=int, metavar="N", help="query heads left in each layer")
    new.add_argument("--neurons", type=int, metavar="N", help="feed-forward units left there")
    return new
