"""A picture of scores: every group's channels, sorted, and where the cut goes."""

import io
import math
import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from ganc.errors import UsageError
from ganc.extras import require
from ganc.files import atomic_write, check_output
from ganc.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT, REMOVED = "#2a78b5", "#c9ccd1"
PANEL_INCHES = (2.3, 1.7)
DOTS_PER_INCH = 100
PALETTE_COLOURS = 64
LOG_FROM = 10.0
"""Where the best channel scores more than this many times what the middle one does, in the median
group, axes are logarithmic: most bars would be too low to see."""


def check_plot(path: Path, *, force: bool) -> None:
    """Refuse what ``save_plot`` could not write, before the slow part.

    Raises:
        UsageError: The name does not end in .png.
        OutputError: See ``ganc.files.check_output``.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot {path} must name a .png file")
    check_output(path, force=force)
    require("plot")


def save_plot(figure: "Figure", path: Path, *, force: bool = False) -> None:
    """Write a figure as PNG, atomically; the same figure gives the same bytes.

    Raises:
        OutputError: The file exists and ``force`` is off, or cannot be written.
    """
    with atomic_write(path, force=force) as temporary, warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; nothing a user could act on.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH)
        # Two colours and the greys of letters: a palette makes the file a third of its size.
        with Image.open(drawn) as image:
            palette = image.convert("RGB").quantize(PALETTE_COLOURS, dither=Image.Dither.NONE)
        palette.save(temporary, format="PNG", optimize=True)


def plot_scores(scores: Scores, widths: Mapping[str, int], title: str) -> "Figure":
    """Draw one panel per group: its scores, highest first, those that stay in colour.

    Args:
        scores: Of any method.
        widths: Group → channels that stay; groups that are not named stay whole.
        title: Drawn above the panels; the channels that stay are counted below it.
    """
    from matplotlib.figure import Figure

    kept = {name: widths.get(name, len(values)) for name, values in scores.values.items()}
    columns = math.ceil(math.sqrt(len(kept)))
    rows = math.ceil(len(kept) / columns)
    # Two narrow panels still need room for the title; 0.7 inches are its height.
    size = (max(PANEL_INCHES[0] * columns, 6.0), PANEL_INCHES[1] * rows + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    is_log = median(map(_steepness, scores.values.values())) > LOG_FROM
    for panel, (name, values) in zip(axes, scores.values.items(), strict=False):
        _draw(panel, name, values, kept[name], is_log)
    for panel in axes[len(kept) :]:
        panel.set_axis_off()
    total = sum(map(len, scores.values.values()))
    count = f"{sum(kept.values())} of {total} channels stay (blue)"
    lines = textwrap.wrap(title, int(size[0] * 12))  # characters per inch at this font size
    figure.suptitle("\n".join([*lines, count]), fontsize=10, parse_math=False)
    figure.supxlabel("channels, highest score first", fontsize=8)
    figure.supylabel("score", fontsize=8)
    return figure


def _steepness(values: Tensor) -> float:
    positive = values[values > 0]
    return (positive.max() / positive.median()).item() if len(positive) else 1.0


def _draw(axes: "Axes", name: str, values: Tensor, kept: int, is_log: bool) -> None:
    width = len(values)
    heights = values.sort(descending=True).values.tolist()
    lowest = min((height for height in heights if height > 0), default=1.0)
    # On a logarithmic axis the lowest bar still needs a height, and a score of zero has none.
    bottom = lowest / 2 if is_log else 0.0
    if is_log:
        axes.set_yscale("log")
    axes.set_xlim(0, width)
    axes.set_ylim(bottom, max(heights[0], lowest) * (1.5 if is_log else 1.05))
    for start, stop, colour in ((0, kept, KEPT), (kept, width, REMOVED)):
        if stop > start:
            shown = [max(height, bottom) for height in heights[start:stop]]
            axes.stairs(shown, range(start, stop + 1), baseline=bottom, fill=True, color=colour)
    axes.axvline(kept, color="black", linewidth=0.8)
    _label(axes, name, values, kept)


def _label(axes: "Axes", name: str, values: Tensor, kept: int) -> None:
    width = len(values)
    axes.set_title(f"{name}\n{kept} of {width} ({100 * kept / width:.0f} %)", fontsize=8)
    axes.set_xticks([0, width])
    axes.tick_params(which="both", labelsize=7)
    if not values.any():  # an empty panel would look like a mistake
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "every score is 0", transform=axes.transAxes, ha="center", va="center",
            fontsize=8, backgroundcolor="white",
        )  # fmt: skip
