"""What a network with one layer of ReLU units and without biases computes, written out.

J hidden units, F features. With u(j) the unit vector of the weights w(j) of a unit and v(j) its
weight in the output, v (w.x)+ = v/2 w.x + v/2 |w| |u.x|. So the whole network is a linear part plus
one kink per direction, and units that share a direction, or have opposite ones, are one:

f(x) = l.x + sum over directions of c (d.x)+

which is the same for every network that computes f, however its units share the work.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
SAME = 0.02  # radians between directions that are one
LEAST = 5e-4  # coefficients below are not written


@dataclass(frozen=True)
class Kink:
    """A term c (d.x)+."""

    size: float
    """c."""
    direction: Numbers
    """d (F,), its largest number 1."""


def written_out(weights: Numbers, outputs: Numbers) -> tuple[Numbers, list[Kink]]:
    """The linear part l (F,) and the kinks, largest first.

    Args:
        weights: w (J, F) of the hidden units.
        outputs: v (J,).
    """
    linear = outputs @ weights / 2
    lengths = np.linalg.norm(weights, axis=1)
    groups: list[tuple[Numbers, float]] = []  # direction, coefficient of |u.x|
    for index in np.argsort(-np.abs(outputs) * lengths):
        if not lengths[index]:
            continue
        unit, size = weights[index] / lengths[index], float(outputs[index] * lengths[index] / 2)
        for number, (known, total) in enumerate(groups):
            if abs(float(known @ unit)) > np.cos(SAME):
                groups[number] = known, total + size
                break
        else:
            groups.append((unit, size))
    kinks = []
    for unit, size in groups:
        own = unit if unit[-1] >= 0 else -unit  # (-d.x)+ = (d.x)+ - d.x
        linear = linear - size * own
        largest = float(np.abs(own).max())
        kinks.append(Kink(2 * size * largest, own / largest))
    return linear, sorted(kinks, key=lambda kink: -abs(kink.size))


def formula(linear: Numbers, kinks: list[Kink], names: tuple[str, ...]) -> str:
    """The function as a text: 1.000 x + 0.998 (y - x)+."""
    terms = list(zip(linear.tolist(), names, strict=True))
    for kink in kinks:
        inside = list(zip(kink.direction.tolist(), names, strict=True))
        terms.append((kink.size, f"({_sum(inside[::-1])})+"))
    return _sum(terms)


def _sum(terms: list[tuple[float, str]]) -> str:
    text = ""
    for value, name in terms:
        if abs(value) < LEAST:
            continue
        sign = "-" if value < 0 else "+" if text else ""
        number = f"{abs(value):.3f} "
        shown = name if number == "1.000 " else number + name
        text += f" {sign} {shown}" if text else f"{sign}{shown}"
    return text or "0"
