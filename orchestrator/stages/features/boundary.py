"""What a classifier of two classes says of each point of the plane, while it learns.

G points along each side of the plane, G x G in all.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from orchestrator.stages.features import points
from orchestrator.stages.features.splits import Inputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 80  # G
PANELS = 6
FRAMES = 24
KEPT = 8 * FRAMES  # frames in memory; beyond that every other one goes
COLORS = ("#eb6834", "#2a78d6")
FRAME_MS = 150
LAST_MS = 2000


class Boundary:
    """The probability of the second class over the plane, at one evaluation after another."""

    def __init__(self, inputs: Inputs, plane: tuple[float, float], cache: Path) -> None:
        """Nothing is kept yet. `plane` is from where to where both coordinates reach."""
        self._plane = plane
        self._points, self._labels = inputs.shown(cache)
        line = np.linspace(*plane, SIDE)
        x, y = np.meshgrid(line, line)
        grid = np.stack([x.ravel(), y.ravel()], 1)  # (G x G, 2)
        self.features = inputs.standard.scaled(points.features(inputs.standard.names, grid))
        """(G x G, F): of the points, as the model sees them."""
        self._frames: list[tuple[int, NDArray[np.float16]]] = []

    @classmethod
    def of(cls, inputs: Inputs, cache: Path) -> Self | None:
        """None: the examples are not two classes of points in a plane."""
        if inputs.plane is None or inputs.classes is None or len(inputs.classes) != 2:
            return None
        return cls(inputs, inputs.plane, cache)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the pictures."""
        return ("boundary.png", "boundary.gif") if self._frames else ()

    def keep(self, step: int, shares: NDArray[np.float32]) -> None:
        """Keep the probabilities (G x G, 2) of both classes after a step."""
        if len(self._frames) >= KEPT:
            self._frames = self._frames[::2]
        self._frames.append((step, shares[:, 1].reshape(SIDE, SIDE).astype(np.float16)))

    def save(self, path: Path) -> None:
        """Draw one of `files`."""
        if path.suffix == ".gif":
            self._animate(path)
        else:
            self._panels().savefig(path, dpi=110)

    def save_tile(self, shares: NDArray[np.float32], path: Path) -> None:
        """Draw the probabilities (G x G, 2) of both classes alone, without words."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2.6, 2.6), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        self._draw(axes, shares[:, 1].reshape(SIDE, SIDE))
        axes.axis("off")
        figure.savefig(path, dpi=100)

    def _chosen(self, most: int) -> list[tuple[int, NDArray[np.float16]]]:
        """At most so many frames, closer together at the beginning, where most happens."""
        count = len(self._frames)
        places = np.geomspace(1, count, min(most, count)).round().astype(int) - 1
        return [self._frames[place] for place in sorted({*places.tolist(), count - 1})]

    def _panels(self) -> "Figure":
        from matplotlib.figure import Figure

        chosen = self._chosen(PANELS)
        rows = 1 if len(chosen) <= 3 else 2
        columns = -(-len(chosen) // rows)
        figure = Figure(
            figsize=(3 * columns + 0.4, 3.1 * rows + 0.3), layout="constrained", facecolor="white"
        )
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes in grid[len(chosen) :]:
            axes.axis("off")
        for axes, (step, frame) in zip(grid, chosen, strict=False):
            self._draw(axes, frame)
            axes.set_title(f"step {step:,}", fontsize=10)
        figure.supxlabel("x", fontsize=10)
        figure.supylabel("y", fontsize=10)
        figure.suptitle(
            "Where the model says which class; white: it can't tell", fontsize=11, fontweight="bold"
        )
        return figure

    def _draw(self, axes: "Axes", frame: NDArray[np.floating[Any]]) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colors = LinearSegmentedColormap.from_list("classes", (COLORS[0], "white", COLORS[1]))
        axes.imshow(
            frame.astype(np.float32),
            extent=(*self._plane, *self._plane),
            origin="lower",
            cmap=colors,
            vmin=0,
            vmax=1,
            alpha=0.75,
        )
        for kind, color in enumerate(COLORS):
            own = self._points[self._labels == kind]
            axes.scatter(own[:, 0], own[:, 1], s=14, color=color, edgecolor="white", linewidth=0.5)
        axes.set_xlim(self._plane)
        axes.set_ylim(self._plane)

    def _animate(self, path: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from PIL import Image

        figure = Figure(figsize=(3.2, 3.4), dpi=100, layout="constrained", facecolor="white")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots()
        pictures = []
        for step, frame in self._chosen(FRAMES):
            axes.clear()
            self._draw(axes, frame)
            axes.set_title(f"step {step:,}", fontsize=10)
            canvas.draw()  # type: ignore[no-untyped-call]
            pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
            rendered = Image.fromarray(pixels).convert("RGB")
            pictures.append(rendered.quantize(64))
        first, *others = pictures
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=[FRAME_MS] * len(others) + [LAST_MS],
            loop=0,
        )
