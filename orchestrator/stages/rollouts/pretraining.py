"""Text that a policy has learned before, some more of which each of its optimizer steps learns.

PPO-ptx (Ouyang et al. 2022, equation 2): beside the gradient of answers that of the mean loss of a
token of text, `stage.ptx_coefficient` times.
"""

from typing import TYPE_CHECKING, Any

from data import Loader, Prepared, Stream
from data.feed.ledger import Ledger
from orchestrator.config import JobConfig
from orchestrator.stages.language.objective import next_token
from orchestrator.stages.rollouts.section import RolloutConfig
from orchestrator.stages.rollouts.text import text_state
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, Totals, backward
from orchestrator.training.own_work import OwnWork

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint


class Text:
    """The text of a job on its ranks; every rank calls every method."""

    def __init__(self, config: JobConfig, prepared: Prepared, start: "Checkpoint | None") -> None:
        """Open it where the run goes on."""
        self.seed, stage = config.seed, config.section(RolloutConfig)
        self.coefficient = stage.ptx_coefficient
        self.stream = Stream.open(prepared.train_sets, config.data)
        state, length = text_state(config, self.stream, start), config.data.sequence_length
        self.stream.exclude(state.exclusions)
        self.ledger = Ledger(self.stream, state)
        self.tokens = state.cursor
        """Of the text so far, over all ranks."""
        self.step_tokens = stage.rows_of_text * length
        loader = Loader(self.stream, length, isolate_documents=config.data.isolate_documents)
        self.steps = loader.stream(
            state.cursor, stage.rows_of_text, config.batch.micro,
            distributed.rank(), distributed.world_size(), prefetch=0,
        )  # fmt: skip

    def learn(self, engine: Engine, own_work: OwnWork) -> Metrics:
        """Add the gradient of the next rows to that of an optimizer step."""
        with own_work():
            batches = next(self.steps)
        own = float(sum(batch.weight for batch in batches))
        [weight] = distributed.sum_over_ranks([own], engine.device)
        weight = weight or 1.0  # all of it is damaged, and skipped
        divisor = weight / self.coefficient
        parts = [
            backward(engine, next_token, batch, divisor, self.seed, own_work) for batch in batches
        ]
        totals = Totals.of(parts, own).of_step(engine.device)
        self.ledger.add(batches)
        self.tokens += self.step_tokens
        return {"train/ptx_loss": totals.loss / weight}

    def commit(self) -> dict[str, Any]:
        """What a checkpoint says of the text."""
        sums = [own for rank in distributed.gather_objects(self.ledger.sums) for own in rank]
        damage = [own for rank in distributed.gather_objects(self.stream.damage) for own in rank]
        return self.ledger.commit(sums, damage).to_dict()
