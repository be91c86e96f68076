"""What ranks send each other in a step, in closed form."""

from collections.abc import Iterable

from orchestrator.stages.stage import RoleOutline


def traffic(roles: Iterable[RoleOutline], workers: int, micro_steps: int) -> float:
    """Bytes that one worker sends in a step, over all models of the job.

    With P parameters (Rajbhandari et al. 2020, section 7): summing gradients so that every rank has
    them sends 2 P numbers in a ring, as does summing them in shards and gathering weights, which
    is what ZeRO 1 and 2 do; ZeRO 3 sends 3 P, weights gathered for the forward pass and again for
    the backward pass. Of N ranks each holds its own part already: (N - 1) / N of that. ZeRO 2 and
    3 sum the gradients of every micro-batch, and ZeRO 3 gathers weights for each.
    """
    sent = 0.0
    for role in roles:
        engine, P = role.config.engine, role.parameters
        stage, trained = engine.sharding_stage, role.config.optim is not None
        half = engine.precision == "bf16" and (engine.name == "deepspeed" or not trained)
        weight = 2 if half else 4
        gradients = P * trained * (micro_steps if stage >= 2 else 1)
        gathered = (1 + trained) * P * micro_steps if stage == 3 else P * trained
        sent += weight * (gradients + gathered)
    return sent * (workers - 1) / workers
