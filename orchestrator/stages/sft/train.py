"""Supervised fine-tuning on every rank: measure, train on answers alone, measure again, save.

B rows of a micro-batch, T tokens.
"""

from pathlib import Path

from data import Batch, Tokenizer
from data.chat import ChatTemplate
from models.cost import flops_per_sample
from orchestrator.config import JobConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.published import open_splits
from orchestrator.stages.examples.resuming import FACTS, start_position
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.language.objective import next_token
from orchestrator.stages.language.roles import language_role
from orchestrator.stages.result import Result, Table
from orchestrator.stages.run import Run
from orchestrator.stages.sft import base, scoring, writing
from orchestrator.stages.sft.conversations import ARRAYS, PublishedConversations, Split
from orchestrator.stages.sft.driver import SAME
from orchestrator.stages.sft.stage import SFTConfig
from orchestrator.training import checkpoint, distributed
from orchestrator.training.loop import Metrics, evaluate
from orchestrator.training.objectives import Objective
from orchestrator.training.patience import SAMPLING

BEFORE = "before"  # what a checkpoint says of the model before training
BASE_LOSSES = "base_losses"  # and on the base text, at each evaluation up to it


def sft(config: JobConfig, inputs: PublishedConversations, run: Run) -> Result:
    """Measure, train, save, and tell what got better. Every rank calls it."""
    training = Training(config, inputs, run)
    training.look_before()
    outcome = training.fit()
    tables = () if outcome.stopped else training.tables(outcome.step)
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tokens_per_second=outcome.weight / max(outcome.training_seconds, 1e-9),
        tables=tables,
        next=(("ask", f"orchestrate generate {{run}} --temperature 0 --prompt {training.asked}"),),
    )


class Training(ExampleTraining[Batch]):
    """A run on conversations."""

    unit = "tokens"

    def __init__(self, config: JobConfig, published: PublishedConversations, run: Run) -> None:
        """Open the conversations, make the model, and go to where the run goes on."""
        self.published, self.length = published, config.section(SFTConfig).sequence_length
        self.tokenizer = published.folder(run.cache) / TOKENIZER
        tokenizer = Tokenizer.load(self.tokenizer)
        self.chat = ChatTemplate(published.template, tokenizer)
        held_out = published.held_out(run.cache)
        self.kinds, self.few = [kind for _, kind in held_out], scoring.few(held_out)
        asked = scoring.few(held_out, writing.MOST_OF_A_KIND)
        self.examiner = writing.Examiner(self.chat, asked, self.length)
        role = language_role(config, published.vocab_size)
        end = tokenizer.end_of_text
        train, self.validation, *self.base = open_splits(
            Split, ARRAYS, published, run.cache, published.splits, filling=end
        )
        self.base_losses: list[float] = []
        flops = flops_per_sample(role.model, round(published.tokens))
        about = {"chat_template": published.template}
        super().__init__(config, run, role, train, published.fingerprint, about, flops)

    def objective(self) -> Objective[Batch]:
        """The loss of each token that the assistant says, its end tokens too."""
        return next_token

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other conversations."""
        return start_position(start, self.config, self.role.model, self.fingerprint, SAME)

    def look_before(self) -> None:
        """Measure the model before its first step, or read what was measured then."""
        start = self.checkpoints.start
        if start is not None:
            before = start.facts[FACTS][BEFORE]
            self.base_losses = start.facts[FACTS].get(BASE_LOSSES, [])
            self.about = {**self.about, BASE_LOSSES: self.base_losses}
        else:
            self.evaluate(0)
            before = {"scores": self.scores, "answers": self.answers()}
            before["few_shot"] = self.few_shot()
        self.about = {**self.about, BEFORE: before}

    def evaluate(self, step: int) -> Metrics:
        """Loss and exact answers of what is held out, loss on the base text; records them. Every
        rank calls it.
        """
        self.scores = self.measure()
        metrics = scoring.metrics_of(self.scores)
        for split in self.base:
            self.base_losses = [*self.base_losses, self.base_loss(split)]
            metrics |= base.metrics_of(self.base_losses)
            self.about = {**self.about, BASE_LOSSES: self.base_losses}
        self.record(step, metrics)
        return metrics

    def base_loss(self, split: Split) -> float:
        """Of text that the weights have learned before, in nats per token. Every rank calls it."""
        ranks = distributed.rank(), distributed.world_size()
        shares = evaluation(split, self.config.batch.micro, *ranks)
        totals = evaluate(self.model.engine, next_token, shares, self.run.heart)
        return totals.metrics(base.BASE)[f"{base.BASE}/loss"]

    def measure(self) -> scoring.Scores:
        """Of each kind of what is held out. Every rank calls it."""
        micro, heart = self.config.batch.micro, self.run.heart
        found = scoring.measure(self.model.engine, self.validation, micro, heart)
        return scoring.scores(found, self.kinds, self.config.seed)

    def answers(self) -> list[str]:
        """What is answered to a few questions. Every rank calls it."""
        self.run.heart.beat(SAMPLING)
        asked = [messages for messages, _ in self.few]
        return scoring.answers(self.model.engine, self.chat, asked, self.length)

    def few_shot(self) -> writing.Grades | None:
        """Answers of the weights to start from, with examples in the prompt. None: there are none,
        or this is another rank than the first, which alone writes them.
        """
        weights = self.role.model.weights
        if weights is None or distributed.rank() != 0:
            return None
        found = checkpoint.open_weights(Path(weights), self.role.model.weights_role, verified=True)
        model = checkpoint.build_writer(found.reader, found.model_config, found.path)
        return self.examiner.grade(model, self.run.heart, self.published.shots(self.run.cache))

    def tables(self, step: int) -> tuple[Table, ...]:
        """What got better since before the first step. Every rank calls it."""
        self.checkpoints.restore_best(self.model)
        before = self.about[BEFORE]
        scores, answers = self.measure(), self.answers()
        known = [(*self.base_losses, self.base_loss(split)) for split in self.base]
        saved = self.checkpoints.given
        if distributed.rank() != 0 or saved is None:  # the others have nothing to do for it
            return ()
        grades = self.examiner.grade(checkpoint.load_writer(saved), self.run.heart)
        self.run.log(step, writing.metrics_of(grades))
        return (
            scoring.table(before["scores"], scores),
            writing.table(before["few_shot"], grades, self.config.seed),
            *(base.table(losses, str(self.published.base)) for losses in known),
            scoring.examples(self.few, before["answers"], answers),
        )

    @property
    def asked(self) -> str:
        """A question as a shell takes it, rendered."""
        bos = self.chat.render([])
        text = self.chat.render(self.few[0][0][:-1], answer=True).removeprefix(bos)
        quoted = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        return f"$'{quoted}'"
