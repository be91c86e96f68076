"""Which step of a run is its best by a metric, and whether there is still progress.

Every rank keeps one; all see the same values, so they agree without a word. Its state goes into
each checkpoint: a resumed run ends at the step at which it would have ended.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Selection:
    """The best value of a metric so far, and for how many evaluations none was better."""

    metric: str
    """Its name in the record, such as validation/loss."""
    higher_is_better: bool
    patience: int | None
    """Evaluations in a row without progress after which training ends. None: it goes on."""
    min_delta: float
    """A value counts as progress when it is better by more than this."""
    best: float | None = None
    """None: nothing was evaluated, or never to a number."""
    best_step: int | None = None
    measured: dict[str, float] = field(default_factory=dict)
    """What that evaluation measured besides, as far as it is a number."""
    progress: float | None = None
    """The last value that counted as progress."""
    without_progress: int = 0
    """Evaluations since."""

    def take(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Take in what was measured after a step; returns whether it is the best so far."""
        value = metrics[self.metric]
        if self._better(value, self.progress, self.min_delta):
            self.progress, self.without_progress = value, 0
        else:
            self.without_progress += 1
        best = self._better(value, self.best, 0.0)
        if best:
            self.best, self.best_step = value, step
            self.measured = {name: x for name, x in metrics.items() if math.isfinite(x)}
        return best

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.without_progress >= self.patience

    def reason(self) -> str:
        """Why training has ended, in words."""
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        best = (
            ""
            if self.best is None
            else f"; its best is {self.best:.4g} after step {self.best_step}"
        )
        return (
            f"{self.metric} has not become better{by} in {self.without_progress} evaluations{best}"
        )

    def to_dict(self) -> dict[str, Any]:
        """What `restore` needs, as plain data."""
        return {n: v for n, v in asdict(self).items() if n not in ("patience", "min_delta")}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from `to_dict`; one of another metric says nothing of this one."""
        if saved["metric"] == self.metric:
            self.best, self.best_step = saved["best"], saved["best_step"]
            self.measured = saved.get("measured", {})  # older checkpoints lack it
            self.progress = saved["progress"]
            self.without_progress = saved["without_progress"]

    def _better(self, value: float, than: float | None, by: float) -> bool:
        """Whether a value is better by more than `by`; one that is no number never is."""
        if not math.isfinite(value):
            return False
        gain = math.inf if than is None else value - than if self.higher_is_better else than - value
        return gain > by
