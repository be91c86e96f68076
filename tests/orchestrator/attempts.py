"""Runs of several attempts as their drivers write them, and a naive account of what they made."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from orchestrator.record.journal import Journal

# An attempt: how many steps it makes, and which of the checkpoints there are it goes on from,
# counted from the newest; beyond the last it begins afresh.
ATTEMPTS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=6)
EVERY = 4  # steps between checkpoints


@dataclass
class Made:
    """What made the weights of the newest attempt that worked."""

    by: dict[int, int] = field(default_factory=dict)
    """Step -> the attempt that made it."""
    checkpoint: str | None = None


def play(folder, attempts, after_line=lambda book: None):
    """Write the journal of these attempts, one driver after another; returns what was `Made`."""
    made, saved = Made(), {}
    for number, (steps, back) in enumerate(attempts, 1):
        with Journal(folder, attempt=number) as book:
            book.event("started", pid=number)
            after_line(book)
            choice = sorted(saved)[::-1][back : back + 1]
            start = choice[0] if choice else 0
            if choice:
                made = Made(dict(saved[start].by), saved[start].checkpoint)
                book.event("resumed", step=start, path=made.checkpoint)
                after_line(book)
            elif steps:  # one that died before its first step can't be known to begin afresh
                made = Made()
            for step in range(start + 1, start + steps + 1):
                made.by[step] = number
                book.metrics(step, {"train/loss": number + step / 100, "train/tokens": 10.0 * step})
                after_line(book)
                if step % EVERY == 0:
                    made.checkpoint = f"checkpoints/step_{step:08d}"
                    book.event("checkpoint", step=step, path=made.checkpoint)
                    saved[step] = Made(dict(made.by), made.checkpoint)
                    after_line(book)
    return made
