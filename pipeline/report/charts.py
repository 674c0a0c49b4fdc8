"""Charts as inline SVG, for a page that needs no network and follows its reader's colour scheme.

Text and axes take their colours from the page (classes ``axis``, ``grid``, ``label``, ``muted``);
the same values give the same bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 96, 16, 48
ROW = 22
LETTER = 6.4
"""Width of a letter in px, about: names are placed without measuring them."""
STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Point:
    """A mark with its name; ``low`` and ``high`` are a range along x where there is one."""

    name: str
    colour: str
    x: float
    y: float = 0.0
    low: float | None = None
    high: float | None = None
    muted: bool = False


@dataclass(frozen=True)
class Line:
    """A named curve."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


class Axis:
    """Values to pixels, on a linear or a logarithmic scale (of positive values)."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        low, high = min(values), max(values)
        if log:
            low, high = low / 1.25, high * 1.25
        else:
            margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
            low, high = low - margin, high + margin
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def place(self, value: float) -> float:
        """Pixels of a value."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values in the range: 1, 2 or 5 times powers of ten."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            every = [10.0**k for k in range(first, last + 1)]
            if last - first <= 4:
                every = [step * power for power in every for step in STEPS]
        else:
            rough = (self.high - self.low) / 6
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(s * power for s in (*STEPS, 10) if s * power >= rough)
            first = math.ceil(self.low / step)
            every = [k * step for k in range(first, math.floor(self.high / step) + 1)]
        return [each for each in every if self.low <= each <= self.high]


def scatter(points: Sequence[Point], title: str, x: str, y: str, *, frontier: bool = True) -> str:
    """Marks over two logarithmic axes, and who is not beaten on both, where less is better.

    Args:
        points: at least one, all values positive.
        title: what the chart shows, for those who do not see it.
        x: what stands on the horizontal axis.
        y: what stands on the vertical one.
        frontier: whether to draw the line through the unbeaten ones.
    """
    across = Axis([each.x for each in points], LEFT, WIDTH - RIGHT, log=True)
    up = Axis([each.y for each in points], HEIGHT - BOTTOM, TOP, log=True)
    parts = [*_across(across, x, HEIGHT), *_up(up, y, across)]
    if frontier:
        steps = [f"{across.place(p.x):.1f},{up.place(p.y):.1f}" for p in unbeaten(points)]
        parts.append(f'<polyline class="frontier" points="{" ".join(steps)}"/>')
    places = [(across.place(each.x), up.place(each.y)) for each in points]
    taken = [Box(left - 6, top - 6, left + 6, top + 6) for left, top in places]
    for each, (left, top) in zip(points, places, strict=True):
        told = f"{each.name}: {x} {number(each.x)}, {y} {number(each.y)}"
        parts.append(
            f"<g><title>{escape(told)}</title>"
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="5" fill="{each.colour}"/></g>'
        )
        box = _free(each.name, left, top, taken)
        taken.append(box)
        parts.append(
            f'<text class="label" x="{box.left:.1f}" y="{box.bottom - 3:.1f}">'
            f"{escape(each.name)}</text>"
        )
    return _svg(parts, HEIGHT, title)


def unbeaten(points: Sequence[Point]) -> list[Point]:
    """The points that no other is at least as good as on both axes and better on one; by x."""
    found: list[Point] = []
    for each in sorted(points, key=lambda p: (p.x, p.y)):
        if not found or each.y < found[-1].y:
            found.append(each)
    return found


@dataclass(frozen=True)
class Box:
    """A rectangle, in px."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        """Whether they have a point in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def _free(name: str, left: float, top: float, taken: Sequence[Box]) -> Box:
    """Where to write a name near its mark, on nothing else if that can be: right of it at best."""
    width, height = LETTER * len(name), 14
    places = [(left + 8, top - 7), (left - 8 - width, top - 7)]
    for rise in (15, 29, 43):
        for side in (left - width / 2, left + 4, left - 4 - width):
            places += [(side, top - 7 - rise), (side, top - 7 + rise)]
    boxes = [Box(x, y, x + width, y + height) for x, y in places]
    inside = [b for b in boxes if b.left >= LEFT and b.right <= WIDTH and b.bottom <= HEIGHT]
    for box in inside:
        if not any(box.overlaps(other) for other in taken):
            return box
    return boxes[0]


def ranges(points: Sequence[Point], title: str, x: str) -> str:
    """A row for each mark, in the order given, on one logarithmic axis."""
    height = TOP + ROW * len(points) + BOTTOM
    names = 24 + LETTER * max(len(each.name) for each in points)
    width = names + WIDTH - LEFT - RIGHT
    values = [v for p in points for v in (p.x, p.low, p.high) if v is not None]
    across = Axis(values, names, width - 16, log=True)
    parts = _across(across, x, height)
    for i, each in enumerate(points):
        top = TOP + ROW * (i + 0.5)
        parts.append(
            f'<text class="{"muted" if each.muted else "label"}" x="{names - 12:.1f}" '
            f'y="{top + 4:.1f}" text-anchor="end">{escape(each.name)}</text>'
        )
        if each.low is not None and each.high is not None:
            parts.append(
                f'<line class="whisker" x1="{across.place(each.low):.1f}" '
                f'x2="{across.place(each.high):.1f}" y1="{top:.1f}" y2="{top:.1f}"/>'
            )
        colour = 'class="reference"' if each.muted else f'fill="{each.colour}"'
        parts.append(
            f"<g><title>{escape(f'{each.name}: {number(each.x)}')}</title>"
            f'<circle cx="{across.place(each.x):.1f}" cy="{top:.1f}" r="5" {colour}/></g>'
        )
    return _svg(parts, height, title, width)


def lines(curves: Sequence[Line], title: str, x: str) -> str:
    """Curves over one linear horizontal axis, each with its name at its end."""
    every = [point for curve in curves for point in curve.points]
    across = Axis([point[0] for point in every], LEFT, WIDTH - 160, log=False)
    up = Axis([point[1] for point in every], HEIGHT - BOTTOM, TOP, log=False)
    parts = [*_across(across, x, HEIGHT), *_up(up, "", across)]
    ends: list[float] = []
    for curve in sorted(curves, key=lambda c: -c.points[-1][1]):
        path = " ".join(f"{across.place(a):.1f},{up.place(b):.1f}" for a, b in curve.points)
        parts.append(f'<polyline class="curve" stroke="{curve.colour}" points="{path}"/>')
        line = up.place(curve.points[-1][1]) + 4
        line = max(line, ends[-1] + 13) if ends else line
        ends.append(line)
        parts.append(
            f'<text x="{across.end + 6:.1f}" y="{line:.1f}" fill="{curve.colour}">'
            f"{escape(curve.name)}</text>"
        )
    return _svg(parts, HEIGHT, title)


def number(value: float) -> str:
    """A value with three significant digits, and a prefix where it is large."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g}"


def _across(axis: Axis, title: str, height: float) -> list[str]:
    bottom = height - BOTTOM
    parts = []
    for tick in axis.ticks():
        place = axis.place(tick)
        parts.append(
            f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{bottom:.1f}"/>'
            f'<text class="axis" x="{place:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">'
            f"{number(tick)}</text>"
        )
    middle = (axis.start + axis.end) / 2
    parts.append(
        f'<text class="axis" x="{middle:.1f}" y="{height - 10:.1f}" text-anchor="middle">'
        f"{escape(title)}</text>"
    )
    return parts


def _up(axis: Axis, title: str, across: Axis) -> list[str]:
    parts = []
    for tick in axis.ticks():
        place = axis.place(tick)
        parts.append(
            f'<line class="grid" x1="{across.start:.1f}" x2="{across.end:.1f}" y1="{place:.1f}" '
            f'y2="{place:.1f}"/><text class="axis" x="{across.start - 8:.1f}" '
            f'y="{place + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    if title:
        middle = (axis.start + axis.end) / 2
        parts.append(
            f'<text class="axis" transform="translate(14 {middle:.1f}) rotate(-90)" '
            f'text-anchor="middle">{escape(title)}</text>'
        )
    return parts


def _svg(parts: Sequence[str], height: float, title: str, width: float = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
