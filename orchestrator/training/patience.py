"""How long a rank may be busy with one thing before it is taken for stuck."""

from collections.abc import Mapping

STEP, EVALUATION, CHECKPOINT = "step", "evaluation", "checkpoint"
"""What beats often, or is short: an optimizer step, a micro-batch of an evaluation, the begin of a
checkpoint that is written in the background."""
WRITING, SAMPLING, END = "writing", "sampling", "end"
"""What is one long beat, as the start is: to wait for a disk, for one."""

TIMES = 4.5  # the usual; with polls and stacks it is known within 5
FIRST_S = 600.0  # the first of its kind: it may compile, and read from a cold disk
LONG_S = 1800.0


def limit_s(phase: str, usual_s: Mapping[str, float], least_s: float) -> float:
    """Seconds without a beat after which a rank is stuck.

    Args:
        phase: what it is busy with.
        usual_s: the median of what each phase has taken from beat to beat.
        least_s: the least there is.
    """
    if phase not in (STEP, EVALUATION, CHECKPOINT):
        return max(LONG_S, least_s)
    usual = usual_s.get(phase)
    return max(FIRST_S if usual is None else TIMES * usual, least_s)
