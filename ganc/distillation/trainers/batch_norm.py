"""Batch norm over the global batch, however many processes share it.

Does what torch's SyncBatchNorm does, which refuses tensors on the CPU.
"""

from functools import cache

import torch
from torch import Tensor, nn

from ganc import collectives


class GlobalBatchNorm(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of all processes' samples together.

    Every process holds as many samples of the same size. Alone, and in eval mode, it is the norm
    that it was made from, bit for bit. Made by ``global_batch_norm``.

    Guarantees: gradients flow through the exchange, so that averaging those of the weights over
        the processes gives the gradient of the mean loss over the global batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or collectives.world_size() == 1:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, var = _global_statistics(wide)
        self._follow(mean, var, count=x.numel() // x.shape[1] * collectives.world_size())
        y = (wide - _per_channel(mean)) * _per_channel(torch.rsqrt(var + self.eps))
        if self.affine:
            y = y * _per_channel(self.weight) + _per_channel(self.bias)
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics; their variance is the unbiased one."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = var * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def global_batch_norm(network: nn.Module) -> None:
    """Let every batch norm of a network normalise by the global batch, in place.

    Parameters, buffers, their names, and what a norm does in eval mode stay as they are.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and not isinstance(module, GlobalBatchNorm):
            # mypy takes the hash of instances for that of their class.
            module.__class__ = _global_class(type(module))  # type: ignore[arg-type]


@cache
def _global_class(norm: type[nn.BatchNorm2d]) -> type[GlobalBatchNorm]:
    """Return a norm's class with the exchange in front of it: no attribute is added or lost."""
    return type(f"Global{norm.__name__}", (GlobalBatchNorm, norm), {})


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance per channel, [C] each.

    Processes exchange their own mean and variance instead of sums of squares, whose difference
    would lose the digits of a small variance beside a large mean.
    """
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    means, variances = collectives.gather(torch.stack([mean, var])[None]).unbind(dim=1)
    total = means.mean(dim=0)
    return total, (variances + (means - total).square()).mean(dim=0)


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]
