"""The least squares behind a fit: a layer's matrix, its styles, its scale.

Source of the idea: He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
Section 3.1, who reconstruct a layer's output from the channels that stay. Demodulation (Karras et
al. 2020, Section 2.2) makes a layer's output independent of its filters' scale; ours is what
follows from that, see ``docs/refit.md``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ganc.models.fitting import FitLayer
from ganc.models.layers import FullyConnectedLayer
from ganc.ops.modulated_conv2d import demodulation_coefficients
from ganc.pruning.refit.rows import Rows, spread

RIDGE = 0.02
"""Weight of staying where the filters point, relative to the mean square of what they read, where
their scale is free: with less of it some scales run away."""
LINEAR_RIDGE = 1e-3
"""The same where it is not."""
UNSEEN = 8
"""One of so many samples judges a fit instead of taking part."""
STYLE_RIDGE = 1e-3
BIAS_RIDGE = 1e-6
SCALES = (0.01, 100.0)
"""Between which a channel's scale stays."""
MOST_STEPS = 6
ENOUGH = 0.02
"""Share of the error that a step must take away for another to follow."""
NOTHING = 1e-9
"""Relative squared error of a layer that reads nothing that was pruned, up to rounding."""
NO_SCALE = 1e-4
"""Difference from 1 up to which a scale is rounding."""
GRADIENT_STEPS = 20
"""Of the conjugate gradients in a style affine."""
CHUNK = 2**24
"""Numbers that an intermediate result holds at a time."""


class Errors(NamedTuple):
    """Squared error of a layer, relative to the teacher's features, before and after its fit."""

    before: float
    after: float


class Fit(NamedTuple):
    """What became of a layer.

    Attributes:
        errors: Of it.
        scale: How much larger than the teacher's its channels are now, [C_out]; None where they are
            not.
    """

    errors: Errors
    scale: Tensor | None


@torch.no_grad()
def fit_layer(layer: FitLayer, rows: Rows) -> Fit:
    """Fit a layer's weights, and the affine that makes its styles; never for the worse.

    The matrix is solved for, with the styles between two solutions, until one takes away less than
    ``ENOUGH`` of the error. Each starts from the one before, so the ridge holds back less and less.
    """
    problem = _Problem(layer, rows)
    solve = _solve_demodulated if layer.demodulates else _solve_linear
    before = problem.error()
    if before < NOTHING:
        return Fit(Errors(before, before), problem.take_scale())
    least, best = before, problem.state()
    for step in range(MOST_STEPS):
        if step and problem.conv.affine is not None:
            scale = problem.scale() if layer.demodulates else 1.0
            _fit_styles(problem, problem.target(problem.rows) * scale)
        solve(problem)
        error = problem.error()
        is_over = not error < (1 - ENOUGH) * least
        if error < least:  # what is not a number is not
            least, best = error, problem.state()
        if is_over:
            break
    problem.restore(best)
    return Fit(Errors(before, least), problem.take_scale())


class _Problem:
    """A layer and its rows: how far it is from its target.

    Attributes:
        rows: What it is fitted to.
        unseen: The last samples, by which a fit is judged: a layer with more weights than pixels
            would remember those that it has seen.
    """

    def __init__(self, layer: FitLayer, rows: Rows) -> None:
        self.layer, self.conv = layer, layer.convs[0]
        self.sizes = [conv.matrix().shape[1] for conv in layer.convs]
        count = len(rows.target)
        seen = count - max(1, count // UNSEEN)
        self.rows, self.unseen = rows.part(slice(0, seen)), rows.part(slice(seen, count))
        self.energy = self.unseen.target.square().sum().clamp(min=torch.finfo(torch.float32).tiny)

    def matrix(self) -> Tensor:
        """Return the weights of all branches side by side, [C_out, K]."""
        return torch.cat([conv.matrix() for conv in self.layer.convs], dim=1)

    def set_matrix(self, matrix: Tensor) -> None:
        """Replace them."""
        for conv, part in zip(self.layer.convs, matrix.split(self.sizes, dim=1), strict=True):
            conv.set_matrix(part)

    def modulated(self, rows: Rows) -> Tensor:
        """Return the columns as the weights meet them, [N, P, K]."""
        if self.conv.affine is None:
            return rows.columns
        assert rows.w is not None
        styles = spread(self.conv.affine(rows.w), rows.columns.shape[2])
        return rows.columns * styles[:, None]

    def demodulation(self, rows: Rows) -> Tensor:
        """Return each sample's scale of the outputs, [N, C_out]."""
        assert self.conv.affine is not None
        assert rows.w is not None
        return demodulation_coefficients(self.conv.weight, self.conv.affine(rows.w))

    def prediction(self, rows: Rows) -> Tensor:
        """Return what the layer gives, [N, P, C_out], without its bias."""
        made = self.modulated(rows) @ self.matrix().t()
        return made * self.demodulation(rows)[:, None] if self.layer.demodulates else made

    def target(self, rows: Rows) -> Tensor:
        """Return what it should give without its bias."""
        if self.layer.demodulates or self.layer.bias is None:
            return rows.target
        return rows.target - self.layer.bias

    def scale(self) -> Tensor:
        """Return how much larger than the teacher's each channel is at best, [C_out].

        It minimises |y / a - t|²: a = y·y / y·t.
        """
        made = self.prediction(self.rows)
        both = (made * self.rows.target).sum(dim=(0, 1)).clamp(min=1e-12)
        return (made.square().sum(dim=(0, 1)) / both).clamp(*SCALES)

    def error(self) -> float:
        """Return the relative squared error, of a demodulated layer at the best scale."""
        made = self.prediction(self.unseen)
        if self.layer.demodulates:
            made = made / self.scale()
        return float((made - self.target(self.unseen)).square().sum() / self.energy)

    def take_scale(self) -> Tensor | None:
        """Let what is added behind the layer follow the scale of its channels; return that.

        The activation is positively homogeneous, so the next layer reads the teacher's channels
        times their scale, which its own fit makes up for.
        """
        if not self.layer.demodulates:
            return None
        scale = self.scale()
        if (scale - 1).abs().max() < NO_SCALE:
            return None
        if self.layer.bias is not None:
            self.layer.bias.mul_(scale)
        if self.layer.noise_strength is not None:  # one number for all channels: least squares
            self.layer.noise_strength.mul_((1 / scale).sum() / (1 / scale.square()).sum())
        return scale

    def state(self) -> list[Tensor]:
        """Return copies of all that a fit may move."""
        return [tensor.clone() for tensor in self._movable()]

    def restore(self, state: list[Tensor]) -> None:
        """Put them back."""
        for tensor, old in zip(self._movable(), state, strict=True):
            tensor.copy_(old)

    def _movable(self) -> list[Tensor]:
        affines = [c.affine for c in self.layer.convs if c.affine is not None]
        tensors: list[Tensor] = [conv.weight for conv in self.layer.convs]
        tensors += [part for affine in affines for part in (affine.weight, affine.bias)]
        return tensors if self.layer.bias is None else [*tensors, self.layer.bias]


def _solve_linear(problem: _Problem) -> None:
    columns, layer = problem.modulated(problem.rows).flatten(0, 1), problem.layer
    target, old = problem.rows.target.flatten(0, 1), problem.matrix()
    if layer.bias is not None:
        columns = torch.cat([columns, columns.new_ones(len(columns), 1)], dim=1)
    gram, moment = _moments(columns, target)
    width = old.shape[1]
    ridge = LINEAR_RIDGE * gram.diagonal()[:width].mean().expand(len(gram)).clone()
    ridge[width:] = BIAS_RIDGE * gram.diagonal()[width:]
    own, goal = gram[:width, :width], moment[:width]
    if layer.bias is not None:  # which takes what is the same everywhere
        aside = gram[:width, width:] / gram[width, width]
        own, goal = own - aside @ gram[width:, :width], goal - aside @ moment[width:]
    prior = _best_scale(own, goal, old)
    moment[:width] += ridge[:width, None] * prior
    found = torch.linalg.solve(gram + torch.diag(ridge), moment).to(old)
    problem.set_matrix(found[:width].t())
    if layer.bias is not None:
        layer.bias.copy_(found[width])


def _solve_demodulated(problem: _Problem) -> None:
    """Solve for the directions of the filters; their scale is free."""
    old = problem.matrix()
    norms = old.norm(dim=1, keepdim=True)
    problem.set_matrix(old / norms)
    scales = problem.demodulation(problem.rows)  # [N, C_out]
    # One Gram matrix for all outputs: a sample's weight is its mean demodulation.
    weight = (scales / scales.mean(dim=0)).mean(dim=1)
    columns = problem.modulated(problem.rows) * weight[:, None, None]
    target = problem.rows.target * (weight[:, None] / scales)[:, None]
    gram, moment = _moments(columns.flatten(0, 1), target.flatten(0, 1))
    ridge = RIDGE * gram.diagonal().mean()
    prior = _best_scale(gram, moment, problem.matrix())
    gram.diagonal().add_(ridge)
    found = torch.linalg.solve(gram, moment + ridge * prior).t().to(norms)
    problem.set_matrix(found / found.norm(dim=1, keepdim=True) * norms)


def _moments(columns: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return columnsᵀ columns [K, K] and columnsᵀ target [K, C_out], in float64."""
    gram = columns.new_zeros(columns.shape[1], columns.shape[1], dtype=torch.float64)
    moment = gram.new_zeros(columns.shape[1], target.shape[1])
    for part, goal in zip(columns.split(4096), target.split(4096), strict=True):
        gram += part.t() @ part
        moment += part.t() @ goal
    return gram, moment


def _best_scale(gram: Tensor, moment: Tensor, matrix: Tensor) -> Tensor:
    """Return the present filters, each at the scale that fits best: [K, C_out]."""
    present = matrix.t().double()
    explained = (present * (gram @ present)).sum(dim=0).clamp(min=1e-30)
    return present * ((present * moment).sum(dim=0) / explained)


def _fit_styles(problem: _Problem, target: Tensor) -> None:
    """Take one Gauss-Newton step of the affine layer; its normal equations by conjugate gradients.

    Args:
        target: What the layer is to give, [N, P, C_out].
    """
    conv, rows = problem.conv, problem.rows
    assert conv.affine is not None
    assert rows.w is not None
    few = max(1, min(len(rows.w), 4 * CHUNK // conv.affine.weight.shape[0] ** 2))
    curvature, gradient = _style_curvature(problem, target, few)
    step = _affine_step(conv.affine, rows.w[:few], curvature, gradient)
    _take_best(conv.affine, step, lambda: problem.prediction(rows) - target)


def _style_curvature(problem: _Problem, target: Tensor, few: int) -> tuple[Tensor, Tensor]:
    """Return, of the first samples, JᵀJ [n, C, C] and Jᵀr [n, C] by their styles."""
    conv, rows = problem.conv, problem.rows
    assert conv.affine is not None
    assert rows.w is not None
    styles = conv.affine(rows.w)
    channels, pixels = styles.shape[1], rows.columns.shape[1]
    weight = conv.matrix().unflatten(1, (channels, -1))  # [O, C, taps]
    energy = weight.square().sum(dim=2)  # [O, C]
    size = max(1, CHUNK // (pixels * weight.shape[0] * channels))
    curvatures, gradients = [], []
    for start in range(0, few, size):
        part = slice(start, min(start + size, few))
        own = styles[part]
        taps = rows.columns[part].unflatten(2, (channels, -1))  # [n, P, C, taps]
        by_channel = torch.einsum("npck,ock->npoc", taps, weight)
        made = torch.einsum("npoc,nc->npo", by_channel, own)
        slope = by_channel
        if problem.layer.demodulates:
            scale = demodulation_coefficients(conv.weight, own)[:, None]  # [n, 1, O]
            pull = (made * scale**3)[..., None] * (energy * own[:, None])[:, None]
            slope, made = by_channel * scale[..., None] - pull, made * scale
        slope = slope.flatten(1, 2)  # [n, P · O, C]
        curvatures.append(slope.transpose(1, 2) @ slope)
        rest = (target[part] - made).flatten(1)[..., None]
        gradients.append((slope.transpose(1, 2) @ rest)[..., 0])
    return torch.cat(curvatures), torch.cat(gradients)


def _affine_step(
    affine: FullyConnectedLayer, w: Tensor, curvature: Tensor, gradient: Tensor
) -> Tensor:
    """Return the change of weight and bias, [C, D_w + 1], that the quadratic asks for."""
    inputs = torch.cat([w * affine.weight_gain, w.new_full((len(w), 1), affine.bias_gain)], dim=1)
    spreads = inputs.square().mean(dim=0)
    ridge = STYLE_RIDGE * curvature.diagonal(dim1=1, dim2=2).mean() * len(w) * spreads

    def apply(step: Tensor) -> Tensor:
        moved = inputs @ step.t()
        return (curvature @ moved[..., None])[..., 0].t() @ inputs + ridge * step

    scales = torch.einsum("nc,nd->cd", curvature.diagonal(dim1=1, dim2=2), inputs.square()) + ridge
    rest = gradient.t() @ inputs
    return conjugate_gradients(apply, rest, scales.clamp(min=1e-30), GRADIENT_STEPS)


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], rest: Tensor, scales: Tensor, steps: int
) -> Tensor:
    """Solve a positive definite system, preconditioned by its diagonal.

    Args:
        apply: The system's matrix times a tensor.
        rest: Its right side.
        scales: Its diagonal, as ``rest``.
    """
    found = torch.zeros_like(rest)
    rest = rest.clone()
    ahead = rest / scales
    direction, size = ahead.clone(), (rest * ahead).sum()
    for _ in range(steps):
        if size <= 0:
            break
        image = apply(direction)
        length = size / (direction * image).sum()
        found += length * direction
        rest -= length * image
        ahead = rest / scales
        before, size = size, (rest * ahead).sum()
        direction = ahead + size / before * direction
    return found


def _take_best(affine: FullyConnectedLayer, step: Tensor, residual: Callable[[], Tensor]) -> None:
    """Take the step as far as it helps: whole, in part, or not at all."""
    weight, bias = affine.weight.clone(), affine.bias.clone()
    before = residual().square().sum()
    for share in (1.0, 0.3, 0.1):
        affine.weight.copy_(weight + share * step[:, :-1])
        affine.bias.copy_(bias + share * step[:, -1])
        if residual().square().sum() < before:
            return
    affine.weight.copy_(weight)
    affine.bias.copy_(bias)
