"""Word vectors on every rank: train, evaluate, save, and look at what was learned.

B centres of a micro-batch, C places around each, K negatives, V words, D numbers per vector.
"""

from functools import partial

import numpy as np
import torch

from models.cost import flops_per_sample
from orchestrator.config import JobConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.stages.embed import looking, pictures
from orchestrator.stages.embed.driver import dot_products, role_of, start_position
from orchestrator.stages.embed.pairs import Batch, Pairs
from orchestrator.stages.embed.stage import EmbedConfig
from orchestrator.stages.embed.words import SPLITS, PublishedWords, open_words
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.pooling import WORDS
from orchestrator.stages.result import Result, Table
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint, distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, evaluate
from orchestrator.training.objectives import Objective, Summed, negative_sampling

MAP, DIMENSIONS, PROJECTOR = "map.png", "dimensions.png", "projector"
VECTORS = "inputs.weight"


def embed(config: JobConfig, inputs: PublishedWords, run: Run) -> Result:
    """Train, evaluate, save; every rank calls it."""
    training = Training(config, inputs, run)
    outcome = training.fit()
    saved = training.checkpoints.given
    tables: tuple[Table, ...] = ()
    if saved is not None and not outcome.stopped:
        tables = training.look(saved) if distributed.rank() == 0 else ()
        training.tell()
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tables=tables,
        next=(("find text", "orchestrate search {run} --file sentences.txt 'a query'"),),
    )


def pair_loss(trainer: Engine, batch: Batch) -> Summed:
    """The objective: negative sampling. The mean of `chance` is the loss of vectors that are 0."""
    centres, neighbours, mask, negatives, true = (
        torch.from_numpy(array).to(trainer.device)
        for array in (batch.centres, batch.neighbours, batch.mask, batch.negatives, batch.true)
    )
    scores, others = trainer.forward(centres, neighbours, mask, negatives)
    told = centres[:, None] if true.shape[1] == 1 != mask.shape[1] else neighbours
    valid = (negatives != told[..., None]) & true[..., None]
    summed = negative_sampling(scores, others, true, valid)
    chance = (true.sum() + valid.sum()) * np.log(2)
    return Summed(summed.loss, means={**summed.means, "chance": chance})


class Training(ExampleTraining[Batch]):
    """A run that trains word vectors."""

    unit = "pairs"

    def __init__(self, config: JobConfig, published: PublishedWords, run: Run) -> None:
        """Open the words, make the model, and go to where the run goes on."""
        self.published = published
        self.own = stage = config.section(EmbedConfig)
        self.role = role = role_of(config, len(published.vocabulary))
        together = role.model.family == "cbow"
        train, self.validation = (
            Pairs(
                *open_words(published, split, run.cache),
                window=stage.window,
                negatives=stage.negatives,
                together=together,
                key=f"{split} {config.seed}",
            )
            for split in SPLITS
        )
        flops = flops_per_sample(role.model, dot_products(stage, role.model.family))
        about = {WORDS: list(published.vocabulary)}
        super().__init__(config, run, role, train, published.fingerprint, about, flops)

    def objective(self) -> Objective[Batch]:
        """Negative sampling."""
        return pair_loss

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other words."""
        return start_position(start, self.config, self.role, self.published)

    def evaluate(self, step: int) -> Metrics:
        """Loss over the pairs of the validation split, always the same. Every rank calls it."""
        shares = evaluation(
            self.validation, self.config.batch.micro, distributed.rank(), distributed.world_size()
        )
        totals = evaluate(self.model.engine, pair_loss, shares, self.run.heart)
        metrics = totals.metrics("validation")
        self.record(step, metrics)
        return metrics

    def look(self, saved: Checkpoint) -> tuple[Table, ...]:
        """Pictures, files and tables of the saved vectors. One rank calls it."""
        folder, words, seed = self.run.folder, self.published.vocabulary, self.config.seed
        reader = checkpoint.open_role(saved)
        vectors = checkpoint.read_whole(reader, VECTORS).numpy()[: len(words)]
        if self.run.pictures:
            pictures.draw_map(words, vectors, seed, folder / MAP)
            pictures.draw_dimensions(seed, folder / DIMENSIONS)
        looking.write_projector(folder / PROJECTOR, words, vectors)
        asked = looking.read_questions(self.own.analogies)
        found = looking.analogies(words, vectors, asked)
        return (
            looking.nearest_table(words, vectors, self.own.nearest),
            looking.analogies_table(found, len(words)),
            self._losses(),
        )

    def tell(self) -> None:
        """Put what `look` has written on record. Every rank calls it."""
        artifact = partial(self.run.event, "artifact")
        for path in (MAP, DIMENSIONS) if self.run.pictures else ():
            artifact(path=path)
        for name in ("vectors.tsv", "metadata.tsv"):
            artifact(path=f"{PROJECTOR}/{name}", artifact_path=PROJECTOR)

    def _losses(self) -> Table:
        own = self.checkpoints.measured(self.latest)
        loss, chance = (own[f"validation/{name}"] for name in ("loss", "chance"))
        first = own["validation/ranked_first"]
        rows = (
            ("these vectors", f"{loss:.3f}", f"{first:.1%}"),
            ("chance", f"{chance:.3f}", f"{1 / (1 + self.own.negatives):.1%}"),
        )
        columns = ("held-out pairs", "loss", "above all their negatives")
        return Table("pairs", columns, rows, bold=0)
