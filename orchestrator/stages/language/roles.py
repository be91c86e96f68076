"""The models of a stage on text: their size depends on the tokenizer."""

from dataclasses import replace
from typing import cast

from data import Tokenizer
from data.tokenizer import vocab_size
from models.configs import CausalConfig, language, reads_tokens
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.stages.weights import verified_weights


def language_role(config: JobConfig, vocabulary: int, name: str = "model") -> RoleConfig:
    """The role with as many rows of tokens as the tokenizer needs, unless the model has more.

    Raises:
        ValueError: the model has fewer, or reads no tokens.
    """
    role = config.role(name)
    model = reads_tokens(role.model)
    rows = model.vocab_size
    if rows is not None and rows < vocabulary:
        raise ValueError(
            f"model.vocab_size={rows} must be at least the {vocabulary} tokens of the tokenizer; "
            "try model.vocab_size=null, which takes the tokenizer's"
        )
    return replace(role, model=replace(model, vocab_size=rows or vocabulary))


def value_role(config: JobConfig, vocabulary: int, name: str = "model") -> RoleConfig:
    """As `language_role`, with a value head; the stage has checked that the model can have one."""
    role = language_role(config, vocabulary, name)
    return replace(role, model=replace(cast(CausalConfig, role.model), value_head=True))


def tokenizer_of_all(config: JobConfig) -> Tokenizer:
    """That of all models of a stage, which has checked that each begins as saved weights.

    Raises:
        ValueError: they have several, or one has none.
    """
    first, *others = config.role_names
    known = tokenizer_of_weights(config, first)
    assert known is not None
    for name in others:
        own = tokenizer_of_weights(config, name)
        assert own is not None
        if own.fingerprint != known.fingerprint:
            raise ValueError(
                f"roles.{name}.model.weights={language(config.role(name).model).weights} reads "
                f"other tokens than model.weights={config.model.weights}, so what they say of a "
                "token can't be compared; give weights with the same tokenizer, or leave it out"
            )
    return known


def tokenizer_of_weights(config: JobConfig, name: str = "model") -> Tokenizer | None:
    """That of the weights which a role starts from. None: it starts from none.

    Raises:
        ValueError: they have none.
    """
    model = config.role(name).model
    if model.weights is None:
        return None
    setting = "model.weights" if name == config.role_names[0] else f"roles.{name}.model.weights"
    found = verified_weights(
        model.weights, model.weights_role, setting, allow_pickle=model.allow_pickle
    ).tokenizer
    if found is None:
        raise ValueError(f"{setting}={model.weights} has no tokenizer: it is no model of text")
    return Tokenizer.load(found)


def vocabulary_of(config: JobConfig) -> int:
    """Tokens that the model of a job reads, from its settings or its weights alone.

    Raises:
        ValueError: as `tokenizer_of_weights`.
    """
    known = tokenizer_of_weights(config)
    return vocab_size(config.tokenizer) if known is None else known.vocab_size
