"""``upfirdn2d`` as Triton kernels: one read of x, one write of y, whatever the layout.

An image lies in memory as planes of [H, W, inner]: channels_last is N planes whose innermost axis
is C, contiguous is N·C planes whose innermost axis is 1. A program makes a tile of one plane; a
thread owns a column of it, so that every value it loads serves all the rows that it meets. Inserted
zeros are never multiplied: a row's phase is known when compiling, a column's phase chooses taps.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganc.ops.operators import memory_format

VECTOR_BYTES = 16
"""What a thread loads and stores at once where channels lie side by side."""

MAX_WASTE = 1 / 8
"""Share of a tile's threads that may lie beyond the edge before narrower tiles are taken."""

MAX_TAPS = 64
"""Of a filter that is kept in registers; a larger one is read again for every row."""


def launch(
    x: Tensor,
    taps: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    before: Sequence[int],
    size: Sequence[int],
    flip: bool,
    gain: float,
) -> Tensor:
    """Compute ``ganc::upfirdn2d``; see ``ganc.ops.resampling`` for the arguments."""
    layout = memory_format(x)
    x, taps = x.contiguous(memory_format=layout), taps.contiguous()
    n, channels, height, width = x.shape
    y = torch.empty((n, channels, *size), dtype=x.dtype, device=x.device, memory_format=layout)
    if y.numel() == 0:
        return y
    if x.dtype == torch.float64:
        taps, gain = taps * gain, 1.0  # a number reaches a kernel as float32
    planes, inner = (n * channels, 1) if layout == torch.contiguous_format else (n, channels)
    keeps_taps = taps.shape[0] * -(-taps.shape[1] // up[1]) <= MAX_TAPS
    rows, columns, wide, num_warps = _tile(x, taps, up, down, size, inner, keeps_taps)
    column_tiles, inner_tiles, row_tiles = (
        -(-size[1] // columns),
        -(-inner // wide),
        -(-size[0] // rows),
    )
    (first_row, lead_row), (first_column, lead_column) = map(divmod, (-before[0], -before[1]), up)
    kernel = _filter_rows if keeps_taps else _filter_row
    with torch.cuda.device_of(x):
        kernel[(planes * column_tiles * inner_tiles * row_tiles,)](
            x, taps, y, inner, height, width, size[0], size[1], first_row, first_column,
            column_tiles, inner_tiles, row_tiles, gain, int(flip), taps.shape[0], taps.shape[1],
            up[0], up[1], down[0], down[1], lead_row, lead_column,
            tl.float64 if x.dtype == torch.float64 else tl.float32, rows, columns, wide,
            num_warps=num_warps,
        )  # fmt: skip
    return y


def _tile(
    x: Tensor,
    taps: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    size: Sequence[int],
    inner: int,
    keeps_taps: bool,
) -> tuple[int, int, int, int]:
    """Return a tile's rows, columns and channels, and how many warps make it.

    More rows share what is loaded, but a thread keeps one sum for each of them. The phase of a
    tile's first row has to be the same in every tile.
    """
    period = up[0] // math.gcd(up[0], down[0])
    rows = 8 if taps.shape[0] > 1 and down[0] == 1 else 4  # else there is little to share
    rows = -(-rows * (2 if inner == 1 else 1) // period) * period if keeps_taps else 1
    if inner == 1:
        columns = next((c for c in (256, 128, 64) if _waste(size[1], c) <= MAX_WASTE), 32)
        return rows, columns, 1, max(columns // 64, 1)
    vector = VECTOR_BYTES // x.element_size()
    wide = min(triton.next_power_of_2(inner), 32 * vector)
    return rows, max(128 * vector // wide, 1), wide, 4


def _waste(size: int, tile: int) -> float:
    """Return the share of threads beyond the edge, relative to those inside."""
    return -size % tile / size


_SIZES = (
    "height", "width", "out_height", "out_width", "first_row", "first_column", "column_tiles",
    "row_tiles", "flip",
)  # fmt: skip


@triton.jit
def _place(
    inner, column_tiles, inner_tiles, row_tiles,
    COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return this program's plane, tile of rows, columns [COLUMNS, 1] and channels [1, WIDE].

    Neighbouring tiles come one after another: what they both read is still in the cache.
    """
    index = tl.program_id(0)
    column = (index % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    index = index // column_tiles
    channel = (index % inner_tiles) * WIDE + tl.arange(0, WIDE)[None, :]
    index = index // inner_tiles
    return (index // row_tiles).to(tl.int64), index % row_tiles, column, channel


@triton.jit
def _reach(column, first_column, UP: tl.constexpr, DOWN: tl.constexpr, LEAD: tl.constexpr):
    """Return the first column of x in the windows of some columns, and how far into them it is."""
    start = column * DOWN + LEAD
    into = (UP - start % UP) % UP
    return first_column + (start + into) // UP, into


@triton.jit
def _factor(
    taps, gain, flip, i, k, inside,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Return the factor of what lies i rows and k columns into the window; 0 if not inside."""
    at = i * WIDTH + k
    at = tl.where(flip != 0, at, HEIGHT * WIDTH - 1 - at)
    return (tl.load(taps + at, mask=inside, other=0.0) * gain).to(SUM)


@triton.jit
def _columns_of(row, height, width):
    """Return how many columns of a row of x there are: none above and below the image.

    Unsigned, so that one comparison finds what is left or right of it.
    """
    return tl.where(row.to(tl.uint32) < height.to(tl.uint32), width, 0).to(tl.uint32)


@triton.constexpr_function
def _tap_row(s, r, height, up, down, lead):
    """Return how far row s of what a tile reads is in the window of its row r; None outside."""
    into = s * up - r * down - lead
    return into if 0 <= into < height else None


@triton.jit(do_not_specialize=_SIZES)
def _filter_rows(
    x, taps, y, inner, height, width, out_height, out_width,
    first_row, first_column, column_tiles, inner_tiles, row_tiles,
    gain, flip, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, UP_Y: tl.constexpr, UP_X: tl.constexpr,
    DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr, LEAD_Y: tl.constexpr, LEAD_X: tl.constexpr,
    SUM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Make ROWS rows at once; ROWS · DOWN_Y is a multiple of UP_Y, all taps are in registers."""
    plane, tile, column, channel = _place(
        inner, column_tiles, inner_tiles, row_tiles, COLUMNS, WIDE
    )
    left, into = _reach(column, first_column, UP_X, DOWN_X, LEAD_X)
    PER_ROW: tl.constexpr = (WIDTH + UP_X - 1) // UP_X
    factors = ()
    for i in tl.static_range(HEIGHT):
        for j in tl.static_range(PER_ROW):
            if UP_X == 1:  # one factor for all columns
                factors = factors + (_factor(taps, gain, flip, i, j, True, HEIGHT, WIDTH, SUM),)
            else:
                k = into + j * UP_X
                factors = factors + (
                    _factor(taps, gain, flip, i, k, k < WIDTH, HEIGHT, WIDTH, SUM),
                )
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.full((COLUMNS, WIDE), 0.0, SUM),)
    top = first_row + tile * (ROWS * DOWN_Y // UP_Y)
    offset = left.to(tl.int64) * inner + channel
    stride = width.to(tl.int64) * inner
    line = x + (plane * height + top) * stride
    for s in tl.static_range(((ROWS - 1) * DOWN_Y + LEAD_Y + HEIGHT - 1) // UP_Y + 1):
        limit = _columns_of(top + s, height, width)
        for j in tl.static_range(PER_ROW):
            inside = ((left + j).to(tl.uint32) < limit) & (channel < inner)
            value = tl.load(line + (offset + j * inner), mask=inside, other=0.0).to(SUM)
            for r in tl.static_range(ROWS):
                if _tap_row(s, r, HEIGHT, UP_Y, DOWN_Y, LEAD_Y) is not None:
                    factor = factors[_tap_row(s, r, HEIGHT, UP_Y, DOWN_Y, LEAD_Y) * PER_ROW + j]
                    sums = sums[:r] + (sums[r] + value * factor,) + sums[r + 1 :]
        line += stride
    stride = out_width.to(tl.int64) * inner
    line = y + (plane * out_height + tile * ROWS) * stride
    offset = column.to(tl.int64) * inner + channel
    for r in tl.static_range(ROWS):
        limit = tl.where(tile * ROWS + r < out_height, out_width, 0)
        tl.store(line + offset, sums[r], mask=(column < limit) & (channel < inner))
        line += stride


@triton.jit(do_not_specialize=_SIZES)
def _filter_row(
    x, taps, y, inner, height, width, out_height, out_width,
    first_row, first_column, column_tiles, inner_tiles, row_tiles,
    gain, flip, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, UP_Y: tl.constexpr, UP_X: tl.constexpr,
    DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr, LEAD_Y: tl.constexpr, LEAD_X: tl.constexpr,
    SUM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Make one row (ROWS is 1) with a filter of any size, whose taps are read as they are used."""
    plane, tile, column, channel = _place(
        inner, column_tiles, inner_tiles, row_tiles, COLUMNS, WIDE
    )
    left, into = _reach(column, first_column, UP_X, DOWN_X, LEAD_X)
    top, above = _reach(tile, first_row, UP_Y, DOWN_Y, LEAD_Y)
    total = tl.full((COLUMNS, WIDE), 0.0, SUM)
    offset = left.to(tl.int64) * inner + channel
    stride = width.to(tl.int64) * inner
    line = x + (plane * height + top) * stride
    for s in range((HEIGHT + UP_Y - 1) // UP_Y):
        limit = _columns_of(top + s, height, width)
        i = above + s * UP_Y
        for j in tl.static_range((WIDTH + UP_X - 1) // UP_X):
            k = into + j * UP_X
            factor = _factor(taps, gain, flip, i, k, (i < HEIGHT) & (k < WIDTH), HEIGHT, WIDTH, SUM)
            inside = ((left + j).to(tl.uint32) < limit) & (channel < inner)
            value = tl.load(line + (offset + j * inner), mask=inside, other=0.0)
            total += value.to(SUM) * factor
        line += stride
    line = y + (plane * out_height + tile) * (out_width.to(tl.int64) * inner)
    inside = (column < out_width) & (channel < inner)
    tl.store(line + (column.to(tl.int64) * inner + channel), total, mask=inside)
