"""`model.weights=...`: the model is that of the weights, and so is the tokenizer that lies there.

Both are choices of their groups, as if they had been typed: a setting that is typed goes on top
of them, and a choice of that group takes their place.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.compose.schema import SCHEMA
from orchestrator.compose.word import Word
from orchestrator.stages import saved

CHOICE = "of_weights"


@dataclass(frozen=True)
class Choices:
    """What weights choose of a job."""

    groups: tuple[str, ...] = ()
    """As Hydra wants them."""
    words: tuple[Word, ...] = ()
    """Settings."""


def choices(words: Sequence[Word]) -> Choices:
    """What the weights choose that the words name; nothing if they name none, or none is there.

    Raises:
        ValueError: what is there is of no model that can be built.
    """
    typed = {word.name: word.value for word in words if word.value is not None}
    name = typed.get("model.weights")
    if name is None:
        return Choices()
    from data.files import expand_home
    from orchestrator.training.checkpoint import described, located

    path = located(
        str(expand_home("model.weights", str(name))),
        allow_pickle=str(typed.get("model.allow_pickle")).lower() in ("true", "1"),
    )
    # What is not there is refused where weights are opened, with what to type; nothing is fetched
    # from the URL of a run before that.
    if isinstance(path, str) or not path.exists():
        return Choices()
    role = typed.get("model.weights_role")
    model, tokenizer = described(path, None if role is None else str(role))
    groups: list[str] = []
    own: list[Word] = []
    if model is not None and "model" not in typed:
        from hydra.core.config_store import ConfigStore
        from omegaconf import OmegaConf

        plain: Any = {key: saved.literal(value) for key, value in asdict(model).items()}
        node = OmegaConf.merge(OmegaConf.structured(type(model)), plain)
        ConfigStore.instance().store(group="model", name=CHOICE + SCHEMA, node=node)
        groups.append(f"model={CHOICE}{SCHEMA}")
    if tokenizer is not None and not any(name.startswith("tokenizer") for name in typed):
        groups.append("tokenizer=file")
        own.append(Word(f"tokenizer.path={tokenizer}", "", "tokenizer.path", str(tokenizer)))
    return Choices(tuple(groups), tuple(own))
