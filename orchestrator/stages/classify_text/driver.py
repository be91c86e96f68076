"""Classification of texts in the process that starts the job: arithmetic, texts and record."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from data import Tokenizer
from data.files import cache_root
from data.messages import counted
from data.tokenizer import load_or_train
from models.configs import BertConfig
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.stages.classify_text.stage import ClassifyTextConfig
from orchestrator.stages.classify_text.texts import (
    PACKAGES,
    LabelledTexts,
    PublishedTexts,
    publish_texts,
    read_texts,
)
from orchestrator.stages.examples.driving import outline_of, ready_of
from orchestrator.stages.language.roles import language_role, tokenizer_of_weights, vocabulary_of
from orchestrator.stages.stage import Outline, Ready, Say, Score, Shown

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

SAME = (
    "stage.data, stage.text, stage.label, stage.validation_fraction, model.weights and the "
    "tokenizer"
)
TRAINING = (
    Shown("train/loss", "train loss {:.3f}"),
    Shown("train/accuracy", "train accuracy {:.1%}"),
)
EVALUATION = (
    Shown("validation/accuracy", "validation accuracy {:.1%}"),
    Shown("validation/loss", "validation loss {:.3f}"),
)


def outline(config: JobConfig) -> Outline:
    """The job from its settings alone, with as many classes as the docstrings have if unknown."""
    stage, size = config.section(ClassifyTextConfig), vocabulary_of(config)
    classes = read_texts(stage, config.seed).classes if stage.data else PACKAGES
    return _outline(config, f"{_source(stage)}, not read yet", role_of(config, size, classes))


def estimate(config: JobConfig, start: "Checkpoint | None") -> Outline:
    """The same: texts are counted when they are read."""
    return outline(config)


def prepare(config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
    """Read and publish the texts; check that the job can go on from `start`."""
    stage = config.section(ClassifyTextConfig)
    say(f"reading {_source(stage)}")
    read = read_texts(stage, config.seed)
    model = config.role("model").model
    assert isinstance(model, BertConfig)
    tokenizer = _tokenizer(config, read)
    published = publish_texts(read, tokenizer, model.max_positions, cache_root())
    role = role_of(config, published.vocab_size, published.classes)
    data = (
        f"{_source(stage)}: {published.train:,} train and {published.validation:,} validation "
        f"texts of {len(published.classes)} classes, {published.tokens:.1f} tokens a text"
    )
    if published.cut:
        data += f"; of {counted(published.cut, 'text')} the first {model.max_positions}"
    return ready_of(
        config,
        start,
        _outline(config, data, role, published),
        published,
        same=SAME,
        name="docstrings" if stage.data is None else Path(stage.data).stem,
        source=stage.data or "python_docs",
        columns={stage.text: "string", stage.label: "string"},
    )


def role_of(config: JobConfig, vocabulary: int, classes: tuple[str, ...]) -> RoleConfig:
    """The role with the classes of the texts.

    Raises:
        ValueError: the model was given others.
    """
    role = language_role(config, vocabulary)
    model = cast(BertConfig, role.model)
    continued = model.weights is not None
    if not continued and model.classes is not None and model.classes != list(classes):
        raise ValueError(
            f"model.classes={model.classes} must be those of the texts, {list(classes)}; try "
            "model.classes=null, which takes them"
        )
    return replace(role, model=replace(model, classes=list(classes)))


def _tokenizer(config: JobConfig, read: LabelledTexts) -> Tokenizer:
    """That of the weights, else the job's; a bpe is trained on the training texts."""
    own = tokenizer_of_weights(config)
    if own is not None:
        return own
    return load_or_train(config.tokenizer, lambda: (text for text, _ in read.splits["train"]))


def _source(stage: ClassifyTextConfig) -> str:
    return stage.data or "docstrings of Python by package"


def _outline(
    config: JobConfig, data: str, role: RoleConfig, published: PublishedTexts | None = None
) -> Outline:
    return outline_of(
        config,
        role,
        data,
        example="text",
        published=published,
        each=None if published is None else round(published.tokens),
        training=TRAINING,
        evaluation=EVALUATION,
        score=Score("validation/accuracy", lower_is_better=False),
    )
