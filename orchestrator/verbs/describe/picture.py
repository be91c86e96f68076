"""A model as a block diagram in SVG: boxes inside boxes, arrows with shapes, residual streams."""

from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from models.describing import BESIDE, Description, Part

INK, MUTED, STREAM = "#1a1a19", "#6b6a64", "#eb6834"
FILLS = ("#ffffff", "#eef3fb", "#d9e6f7", "#c2d7f1")
"""Of a box in so many others."""
BOX, GAP, PAD, HEAD = 30, 22, 14, 24
"""Heights of a box and of the arrow to the next; room around what is inside a box, and above it."""
WIDTH, SIDE = 620, 64
"""Of the whole; and left of parts, where the residual stream passes by."""


@dataclass
class _Canvas:
    """What was drawn so far."""

    elements: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, width: float, height: float, depth: int) -> None:
        fill = FILLS[min(depth, len(FILLS) - 1)]
        self.elements.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" '
            f'stroke="{MUTED}"/>'
        )

    def text(self, x: float, y: float, text: str, *, end: bool = False, color: str = INK) -> None:
        anchor = ' text-anchor="end"' if end else ""
        self.elements.append(f'<text x="{x}" y="{y}"{anchor} fill="{color}">{escape(text)}</text>')

    def arrow(self, x: float, y: float, to: float, color: str = INK) -> None:
        self.elements.append(
            f'<path d="M {x} {y} V {to}" stroke="{color}" fill="none" marker-end="url(#tip)"/>'
        )

    def stream(self, x: float, y: float, left: float, to: float) -> None:
        """The residual stream from (x, y) by the left side to a sum at (x, to)."""
        self.elements.append(
            f'<path d="M {x} {y} H {left} V {to} H {x - 9}" stroke="{STREAM}" fill="none" '
            'stroke-width="2" marker-end="url(#tip)"/>'
            f'<circle cx="{x}" cy="{to}" r="9" fill="#ffffff" stroke="{STREAM}" stroke-width="2"/>'
            f'<path d="M {x - 5} {to} H {x + 5} M {x} {to - 5} V {to + 5}" stroke="{STREAM}" '
            'stroke-width="2"/>'
        )


def svg(found: Description) -> str:
    """The diagram as an SVG document."""
    canvas, middle = _Canvas(), WIDTH / 2
    text = "V" in found.letters
    title = ", ".join(f"{letter}={value:,}" for letter, value in found.letters.items())
    canvas.text(PAD, 22, f"{found.tree.kind}   {title}", color=MUTED)
    canvas.text(middle + 8, 50, "tokens (B, T)" if text else "features (B, N)")
    bottom = _stack(canvas, found.tree, PAD, 56, WIDTH - 2 * PAD, 0)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + PAD}" '
            f'width="{WIDTH}" font-family="sans-serif" font-size="13">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            f'markerHeight="8" orient="auto"><path d="M 0 0 L 8 4 L 0 8 z" fill="{INK}"/></marker>'
            "</defs>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *canvas.elements,
            "</svg>\n",
        ]
    )


def _stack(canvas: _Canvas, part: Part, x: float, y: float, width: float, depth: int) -> float:
    """Draw the parts inside a part one below the other; returns where they end."""
    middle = x + width / 2
    kept: float | None = None
    side = SIDE if part.around else 0
    for number, inner in enumerate(part.parts):
        if number in part.around:
            kept = y + GAP / 3
        row = [other for other in part.parts if other.kind == inner.kind]
        if inner.kind.startswith(BESIDE) and inner is not row[0]:
            continue  # drawn with the first of them
        canvas.arrow(middle, y, y + GAP)
        if inner.kind.startswith(BESIDE):
            each = (width - PAD * (len(row) - 1)) / len(row)
            for place, other in enumerate(row):
                _part(canvas, other, x + place * (each + PAD), y + GAP, each, depth)
            y += GAP + BOX
            continue
        y = _part(canvas, inner, x + side, y + GAP, width - 2 * side, depth)
        if kept is not None and number - 1 in part.around:
            canvas.arrow(middle, y, y + GAP)
            y += GAP + 9
            canvas.stream(middle, kept, x + side / 2, y)
            y += 9
            kept = None
    return y


def _part(canvas: _Canvas, part: Part, x: float, y: float, width: float, depth: int) -> float:
    """Draw a part with what is inside it; returns where it ends."""
    times = f"  x {part.repeated}" if part.repeated > 1 else ""
    if not part.parts:
        canvas.box(x, y, width, BOX, depth)
        canvas.text(x + PAD, y + 20, part.name + times)
        canvas.text(x + width - PAD, y + 20, part.symbols, end=True, color=MUTED)
        return y + BOX
    place = len(canvas.elements)
    bottom = _stack(canvas, part, x + PAD, y + HEAD, width - 2 * PAD, depth + 1) + PAD
    inside, canvas.elements[place:] = canvas.elements[place:], []
    canvas.box(x, y, width, bottom - y, depth)
    canvas.elements += inside
    canvas.text(x + PAD, y + 17, f"{part.name}{times}   {part.kind}")
    canvas.text(x + width - PAD, y + 17, part.symbols, end=True, color=MUTED)
    return bottom
