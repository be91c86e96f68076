"""What ranks send each other in a step, in closed form."""

from collections.abc import Iterable

from orchestrator.stages.stage import RoleOutline


def traffic(roles: Iterable[RoleOutline], workers: int, micro_batches: int) -> float:
    """Bytes that one worker sends in a step, over all models of the job.

    With P parameters (Rajbhandari et al. 2020, section 7): summing gradients so that every rank has
    them sends 2 P numbers in a ring, as does summing them in shards and gathering weights, which
    is what ZeRO 1 and 2 do; ZeRO 3 sends 3 P, weights gathered for the forward pass and again for
    the backward pass. Of N ranks each holds its own part already: (N - 1) / N of that. ZeRO 2 and
    3 sum the gradients of every micro-batch, and ZeRO 3 gathers weights for each pass of one, and
    for each token that it writes.

    Args:
        roles: the models.
        workers: ranks.
        micro_batches: of all samples that a worker has in a step.
    """
    sent = 0.0
    for role in roles:
        engine, P, work = role.config.engine, role.parameters, role.work
        stage, trained = engine.sharding_stage, role.config.optim is not None
        half = engine.precision == "bf16" and (engine.name == "deepspeed" or not trained)
        weight = 2 if half else 4
        sums = micro_batches * work.trips if stage >= 2 else work.updates
        gathered = work.updates
        if stage == 3:
            gathered = micro_batches * (
                2 * work.trips + work.looks + work.written * (not work.writers)
            )
        sent += weight * P * (sums + gathered)
    return sent * (workers - 1) / workers
