"""After a fit: batch norms whose statistics are those of the channels that they really get."""

import torch
from torch import Tensor, nn

from ganc.models.network import ImageGenerator
from ganc.pruning.refit.rows import SharedInputs


@torch.no_grad()
def settle_norms(student: ImageGenerator, samples: SharedInputs) -> None:
    """Measure the running statistics anew; weight and bias make up for it, in place.

    A fit runs in eval mode, by the statistics of the teacher's channels. Training norms by the
    batch's own: it would start from other images than those that were fitted. What eval mode gives
    stays the same, up to rounding, so one pass serves all norms.
    """
    norms = [m for m in student.modules() if isinstance(m, nn.BatchNorm2d) and _is_settled(m)]
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms}

    def look(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0].double()
        counted = torch.full((x.shape[1],), x.numel() / x.shape[1], dtype=x.dtype, device=x.device)
        own = torch.stack([counted, x.sum(dim=(0, 2, 3)), x.square().sum(dim=(0, 2, 3))])
        sums[norm] += own.cpu()  # type: ignore[index]

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    for indices in samples.ranges() if norms else []:
        samples.source.feed(student, indices)()
    for hook in hooks:
        hook.remove()
    for norm, (count, total, squares) in sums.items():
        _settle(norm, total / count, squares / count - (total / count).square())


def _is_settled(norm: nn.BatchNorm2d) -> bool:
    """Whether a norm has something to make up with, and uses running statistics at all."""
    return norm.affine and getattr(norm, "statistics", "running") == "running"


def _settle(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    old_mean, old_variance = norm.running_mean, norm.running_var
    assert old_mean is not None
    assert old_variance is not None
    mean, variance = mean.to(old_mean), variance.to(old_variance)
    rate = norm.weight / (old_variance + norm.eps).sqrt()
    norm.bias.add_(rate * (mean - old_mean))
    norm.weight.copy_(rate * (variance + norm.eps).sqrt())
    old_mean.copy_(mean)
    old_variance.copy_(variance)
