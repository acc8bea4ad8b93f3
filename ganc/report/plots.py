"""The plots of a report: matplotlib's SVG, made to live inside a page.

Text stays text, so that it takes the page's font and can be found; colours are the page's own
variables, so that a plot follows light and dark.
"""

import importlib
import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from ganc.report.values import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (4.6, 3.1)
POINTS_PER_INCH = 72
MARGINS = {"left": 0.13, "right": 0.97, "bottom": 0.16, "top": 0.95}
LOG_FROM = 3.0
"""Costs that differ by more than this factor are drawn on a logarithmic axis."""

LINE_POINTS, LETTER_POINTS = 11.0, 5.2
"""Height and mean width of a label's letters at the font size below."""
FONT_POINTS = 9

# Stand-ins that matplotlib accepts as colours and that nothing else in an SVG is called.
_INK, _RULE = "#0e0e01", "#0e0e02"
NUM_COLOURS = 8


def colour(index: int) -> str:
    """Return the page's colour of the i-th model; 0, the teacher's, comes once."""
    return f"var(--model-{_slot(index)})"


def _slot(index: int) -> int:
    return 1 + (index - 1) % (NUM_COLOURS - 1) if index else 0


class Point(NamedTuple):
    """A model in a plot."""

    name: str
    x: float
    y: float
    colour: int
    deviation: float = 0.0


def against_macs(points: Sequence[Point], value: str) -> str:
    """Draw a quality over the multiply-accumulates per image; the caption is the page's.

    Returns:
        An ``<svg>`` element.
    """
    with _style():
        figure, axes = _empty("multiply-accumulates per image", "")
        costs = [point.x for point in points]
        if max(costs) > LOG_FROM * min(costs):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(_ticker().LogLocator(subs=(1, 2, 5), numticks=12))
        _scatter(axes, points)
        axes.margins(0.12, 0.14)
        axes.xaxis.set_major_formatter(_ticker().FuncFormatter(lambda cost, _: short(cost)))
        axes.xaxis.set_minor_formatter(_ticker().NullFormatter())
        _label(axes, points)
        return _svg(figure, value)


def precision_recall(points: Sequence[Point]) -> str:
    """Draw precision over recall, both from 0 to 1; returns an ``<svg>`` element."""
    with _style():
        figure, axes = _empty("recall: how much of the real variety is there", "precision")
        _scatter(axes, points)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
        _label(axes, points)
        return _svg(figure, "precision-recall")


def _ticker() -> Any:
    return importlib.import_module("matplotlib.ticker")


def _style() -> AbstractContextManager[None]:
    settings = {
        "svg.fonttype": "none", "svg.hashsalt": "ganc", "font.size": FONT_POINTS,
        "text.color": _INK, "axes.labelcolor": _INK, "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK, "axes.edgecolor": _RULE, "xtick.color": _RULE,
        "ytick.color": _RULE, "grid.color": _RULE, "axes.spines.top": False,
        "axes.spines.right": False, "text.parse_math": False, "axes.unicode_minus": True,
    }  # fmt: skip
    context: AbstractContextManager[None] = importlib.import_module("matplotlib").rc_context(
        settings
    )
    return context


def _empty(x: str, y: str) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=POINTS_PER_INCH)
    axes = figure.subplots()
    figure.subplots_adjust(**MARGINS)
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _stand_in(index: int) -> str:
    return f"#0e0e1{_slot(index)}"


def _scatter(axes: "Axes", points: Sequence[Point]) -> None:
    for point in points:
        tint = _stand_in(point.colour)
        if point.deviation:
            axes.errorbar(point.x, point.y, yerr=point.deviation, color=tint, capsize=3)
        axes.plot(point.x, point.y, "o", color=tint, markersize=7)


def _label(axes: "Axes", points: Sequence[Point]) -> None:
    """Write each model's name beside its point, moved up where two would overlap."""
    axes.autoscale_view()  # else the limits are found when it is drawn, which is too late
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda point: point.y):
        x, y = axes.transData.transform((point.x, point.y))
        middle = axes.transAxes.transform((0.5, 0.5))[0]
        name = point.name if len(point.name) <= 24 else f"{point.name[:12]}…{point.name[-11:]}"
        width = len(name) * LETTER_POINTS + 8
        left = x if x < middle else x - width
        for start, stop, height in sorted(taken, key=lambda box: box[2]):
            if left < stop and start < left + width and abs(y - height) < LINE_POINTS:
                y = height + LINE_POINTS
        taken.append((left, left + width, y))
        axes.annotate(
            name, (x + (7 if x < middle else -7), y), xycoords="figure points",
            ha="left" if x < middle else "right", va="center", color=_stand_in(point.colour),
        )  # fmt: skip


def _svg(figure: "Figure", name: str) -> str:
    """Return the figure as an element with the page's colours and ids of its own."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    prefix = re.sub(r"\W", "-", name)
    text = re.sub(r'\bid="', f'id="plot-{prefix}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>plot-{prefix}-", text)
    for index in range(NUM_COLOURS):
        text = text.replace(_stand_in(index), colour(index))
    return text.replace(_INK, "currentColor").replace(_RULE, "var(--rule)")
