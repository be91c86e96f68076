"""What every family of models has, and what families of one kind share."""

from dataclasses import dataclass, fields
from typing import ClassVar

from models.configs.checks import check_choice, check_size, check_switch


@dataclass
class ModelConfig:
    """What every family has.

    Raises:
        ValueError: from the constructor, for a value that no model can have.
    """

    shapeless: ClassVar[tuple[str, ...]] = ()
    """Settings that change what given weights compute and that no tensor's shape tells."""
    initial: ClassVar[tuple[str, ...]] = ()
    """Settings of random weights."""
    trained_by: ClassVar[str | None] = None
    """What to type to train one, where it does not tell the next token."""
    recomputes: ClassVar[bool] = False
    """Whether it can compute activations again instead of keeping them."""
    family: str = ""
    """Name of the architecture in models.MODELS."""
    weights: str | None = None
    """Run folder, checkpoint, exported folder, Hugging Face model (its folder, or its name
    OWNER/NAME on the hub) or GGUF file whose weights training starts from, without an optimizer
    or position. The other settings of the model and the tokenizer are those of the weights, unless
    others are asked for. None: random."""
    weights_role: str | None = None
    """Which model of a checkpoint that holds several. None: the only one."""
    allow_pickle: bool = False
    """Whether weights may be read that are a pickle (pytorch_model.bin). Of such a file only plain
    tensors are read; one that holds anything else is refused."""

    def __post_init__(self) -> None:
        """Check what all families share."""
        (own,) = (f.default for f in fields(self) if f.name == "family")
        if own:  # a config that families share has none
            check_choice("family", self.family, (str(own),))
        if self.weights == "":
            raise ValueError("model.weights='' must name a folder; null starts from random weights")
        if self.weights_role is not None and self.weights is None:
            raise ValueError(
                f"model.weights_role={self.weights_role} is of a checkpoint; add model.weights=RUN"
            )

    @property
    def output_layers(self) -> tuple[str, ...]:
        """Modules that begin anew where the weights to start from are of another task."""
        return ()

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        if self.weights is None:
            return {"allow_pickle": "it is for model.weights"}
        return dict.fromkeys(self.initial, "it is for random weights, and model.weights is set")


@dataclass
class TokenModelConfig(ModelConfig):
    """What every model of token sequences has.

    Raises:
        ValueError: from the constructor, for a value that no model can have.
    """

    vocab_size: int | None = None
    """Distinct tokens. None: that of the tokenizer."""
    max_positions: int = 256
    """Longest sequence, in tokens."""

    def __post_init__(self) -> None:
        """Check what all models of tokens share."""
        super().__post_init__()
        check_size("max_positions", self.max_positions)
        if self.vocab_size is not None:
            check_size("vocab_size", self.vocab_size)

    @property
    def writes(self) -> bool:
        """Whether it predicts the next token of a text, and so can write one."""
        return True

    @property
    def translates(self) -> bool:
        """Whether it answers a source text with a target text."""
        return False

    @property
    def target_start(self) -> int | None:
        """Of a model that translates, the token that a target begins behind. None: the end of a
        text."""
        return None

    @property
    def sees_target(self) -> bool:
        """Whether a token attends to the one that it is to predict."""
        return False


@dataclass
class LanguageModelConfig(TokenModelConfig):
    """A model that tells the next token from those before it."""


@dataclass
class CausalConfig(LanguageModelConfig):
    """A language model of ours, whose output head may be the token embedding.

    Raises:
        ValueError: from the constructor, for a value that no model can have.
    """

    tied_embedding: bool = True
    """Whether the output head is the token embedding."""
    value_head: bool = False
    """Whether it gives a number for each token in place of the next token, as reward models and
    critics do; stage=reward makes it so."""

    def __post_init__(self) -> None:
        """Check what all of them share."""
        super().__post_init__()
        check_switch("tied_embedding", self.tied_embedding)
        check_switch("value_head", self.value_head)

    @property
    def writes(self) -> bool:
        """Whether it predicts the next token of a text, and so can write one."""
        return not self.value_head

    @property
    def output_layers(self) -> tuple[str, ...]:
        """What gives values, and what that takes the place of."""
        return ("head", "value") if self.value_head else ("value",)


@dataclass
class FeatureModelConfig(ModelConfig):
    """What every model has that takes the features of an example to one or more numbers.

    Raises:
        ValueError: from the constructor, for a value that no model can have.
    """

    inputs: int | None = None
    """Features of an example. None: as many as the examples of the job have."""
    outputs: int | None = None
    """Numbers it gives, one score per class where it classifies. None: as many as the examples
    of the job ask for."""

    def __post_init__(self) -> None:
        """Check what all of them share."""
        super().__post_init__()
        for name in ("inputs", "outputs"):
            if getattr(self, name) is not None:
                check_size(name, getattr(self, name))


def reads_tokens(config: ModelConfig) -> TokenModelConfig:
    """The config as that of a model of token sequences.

    Raises:
        ValueError: it is of a family that does not read tokens.
    """
    if not isinstance(config, TokenModelConfig):
        raise ValueError(
            f"model.family={config.family} reads no tokens, and text is made of them; "
            "try model=gpt_tiny"
        )
    return config


def language(config: ModelConfig) -> LanguageModelConfig:
    """The config as that of a language model.

    Raises:
        ValueError: it is of a family that does not tell the next token.
    """
    if not isinstance(config, LanguageModelConfig):
        raise ValueError(
            f"model.family={config.family} is no language model, which tells the next token; "
            f"try {config.trained_by or 'model=gpt_tiny'}"
        )
    return config


def of_features(config: ModelConfig) -> FeatureModelConfig:
    """The config as that of a model of features.

    Raises:
        ValueError: it is of a family that does not read the features of an example.
    """
    if not isinstance(config, FeatureModelConfig):
        raise ValueError(
            f"model.family={config.family} does not read features, and rows of numbers need one "
            "that does; try model=mlp"
        )
    return config
