"""Series of a run that stay at one value: no curve, and in MLflow a param instead.

A learning rate without a schedule or a GPU that idles would fill the page with level lines. Such a
series is held back until it changes, and then sent whole. What was measured of the model is always
sent: runs are ranked and compared by it, also where it stays the same.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.record.lines import EVENTS, METRICS, read
from orchestrator.record.mlflow.history import parent_of, points_before
from orchestrator.record.mlflow.mirror import State
from orchestrator.record.mlflow.points import CHUNK_BYTES, Point, Points, every_point
from orchestrator.record.mlflow.store import SYSTEM

OF_THE_PROCESS = ("train/", "system/")
PARAM = "constant."
"""Before the name of a series, in that of the param which has its only value."""


class Constants:
    """Tells which points to send now; what it holds back stands in the state of the run."""

    def __init__(self, folder: Path, state: State, points: Points) -> None:
        """Go on from what an earlier sender of this run held back."""
        self._folder, self._state, self._points = folder, state, points

    def changing(self, points: Iterable[Point]) -> Iterator[list[Point]]:
        """Of new points those to send, and the earlier ones of series that change with them."""
        send: list[Point] = []
        series: dict[str, list[Point]] = defaultdict(list)
        for point in points:
            held_back = point.key.startswith(OF_THE_PROCESS)
            (series[point.key] if held_back else send).append(point)
        late = set()
        for name, own in series.items():
            before = self._state.constant.get(name, "")
            values = {repr(point.value) for point in own} | ({before} if before else set())
            if before is not None and len(values) == 1:
                self._state.constant[name] = values.pop()
                continue
            self._state.constant[name] = None
            send += own
            if before:
                late.add(name)
        yield send
        if late:
            yield from self._all_of(late)

    def settled(self) -> tuple[list[Point], dict[str, str]]:
        """At the end of the run: points to send of what was held back, and params for the rest.

        A series of one step is no curve either, but its value belongs into the table of runs.
        """
        held = {name for name, value in self._state.constant.items() if value is not None}
        series: dict[str, list[Point]] = {name: [] for name in held}
        for points in self._all_of(held) if held else ():
            for point in points:
                series[point.key].append(point)
        send, params = [], {}
        for name, own in series.items():
            level = len({repr(point.value) for point in own}) == 1
            if level and len({point.step for point in own}) > 1:
                params[f"{PARAM}{name}"] = f"{own[0].value:g}"
            else:
                send += own
        return send, params

    def _all_of(self, series: set[str]) -> Iterator[list[Point]]:
        """All points of some series, also of the runs that this one goes on from."""
        events, _ = read(self._folder / EVENTS)
        for event in events:
            if event["event"] == "resumed" and parent_of(self._folder, event) is not None:
                for points in points_before(self._folder, event):
                    yield [point for point in points if point.key in series]
        for name in (METRICS, SYSTEM):
            lines, offset = read(self._folder / name, 0, CHUNK_BYTES)
            while lines:
                points = self._points.of(lines) if name == METRICS else every_point(lines)
                yield [point for point in points if point.key in series]
                lines, offset = read(self._folder / name, offset, CHUNK_BYTES)
