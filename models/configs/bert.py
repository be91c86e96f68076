"""A Transformer encoder for masked tokens, as its sizes and choices."""

from dataclasses import dataclass
from typing import ClassVar

from models.configs.blocks import BlocksConfig
from models.configs.checks import check_positive


@dataclass
class BertConfig(BlocksConfig):
    """Tells masked tokens from all others around them (Devlin et al. 2019), or classes of texts.

    Raises:
        ValueError: from the constructor, for a value or a combination that cannot work.
    """

    trained_by: ClassVar[str | None] = "stage=masked"
    initial: ClassVar[tuple[str, ...]] = ("init_std",)

    family: str = "bert"
    activation: str = "gelu"
    norm_eps: float = 1e-12
    init_std: float = 0.02
    """Std of the initial weights; those of positions are sinusoids of this size."""
    segments: int = 0
    """Rows of a table of segments, of which every token here gets the first, as BERT's own weights
    expect (they have 2). 0: there is none."""
    classes: list[str] | None = None
    """Names of the classes of texts that it tells, by the mean of the vectors of their tokens.
    None: it tells masked tokens; stage=classify_text takes those of its examples."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        check_positive("init_std", self.init_std)
        if self.segments < 0:
            raise ValueError(f"model.segments={self.segments} must be at least 0; try 0, or 2")
        if self.classes is not None and not 1 < len(self.classes) == len(set(self.classes)):
            raise ValueError(
                f"model.classes={self.classes} must be two or more different names; try "
                "model.classes=null, which takes those of the examples"
            )

    @property
    def output_layers(self) -> tuple[str, ...]:
        """Those for masked tokens and for classes."""
        return ("head", "classifier")

    def weight_std(self, inputs: int, outputs: int) -> float:
        """The same for all."""
        return self.init_std
