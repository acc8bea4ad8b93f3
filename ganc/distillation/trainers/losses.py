"""The losses of distillation, as pure functions of logits, images and features.

Each returns an unweighted scalar, float32 under autocast too; weights and intervals are the
recipe's and enter in the trainer.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ganc import collectives
from ganc.devices import without_autocast
from ganc.ops.conv2d import constant_kernels


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Return the mean squared gradient norm of the logits. Source: Mescheder et al. 2018, Eq. 9.

    The published loss is gamma / 2 times this.

    Args:
        logits: [N, 1], computed from ``images``.
        images: [N, C, H, W], real, with gradient required.
    Guarantees: differentiable with respect to the discriminator's weights.
    """
    with constant_kernels():
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, ws: Tensor, pixels: Tensor) -> Tensor:
    """Return each sample's path length: how far the image moves for a step in w.

    Source: Karras et al. 2020 (StyleGAN2), Section 3.2, Eq. 4.

    Args:
        images: [N, C, H, W], computed from ``ws``.
        ws: [N, L, D_w], with gradient required.
        pixels: Standard normal, shape of ``images``.
    Returns:
        [N].
    Guarantees: differentiable with respect to the generator's weights.
    """
    scale = (images.shape[2] * images.shape[3]) ** -0.5
    with constant_kernels():
        (gradient,) = torch.autograd.grad((images * pixels).sum() * scale, ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def pixel_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference of two batches of images."""
    return (student.float() - teacher.float()).abs().mean()


def shrink(images: Tensor, max_resolution: int, mode: str = "area") -> Tensor:
    """Make images smaller, to ``max_resolution``; others are returned as they are.

    Args:
        mode: "area" averages all pixels; "bilinear" takes the nearest four.
    """
    if images.shape[-1] <= max_resolution:
        return images
    align = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(images, size=(max_resolution, max_resolution), mode=mode, **align)


def similarity(features: Tensor, moved: Tensor, group: int = 0) -> Tensor:
    """Return cosine similarities across a batch, [N, M]: row i is sample i against all ``moved``.

    Several processes compare with the whole batch, M samples, each for the N rows of its own.

    Args:
        features, moved: [N, …], flattened per sample.
        group: M samples, one after the other, that are compared with each other alone; it divides
            N. 0 is the whole batch.
    """
    exact = torch.promote_types(features.dtype, torch.float32)
    a, b = (F.normalize(x.flatten(1).to(exact), dim=1) for x in (features, moved))
    # Autocast would round the products: in bfloat16 a similarity above 0.998 is 1.
    with without_autocast(a.device):
        if group:
            rows, columns = (x.unflatten(0, (-1, group)) for x in (a, b))
            return (rows @ columns.transpose(1, 2)).flatten(0, 1)
        return a @ collectives.gather(b).t()


def latent_direction(
    student: Sequence[tuple[Tensor, Tensor]],
    teacher: Sequence[tuple[Tensor, Tensor]],
    group: int = 0,
) -> Tensor:
    """Compare how features move along a latent direction, across the batch.

    Rows of the similarity matrices are softmaxed (temperature 1); KL(teacher ‖ student), mean over
    the batch, summed over blocks. Similarities do not depend on the number of channels, so widths
    may differ. Source: Xu et al. 2022 (StyleKD), Section 3.3.

    Args:
        student, teacher: Per block, features [N, C, R, R] of w and of w + offset. The teacher's
            carry no gradient.
        group: See ``similarity``.
    Returns:
        A scalar, 0 where the student's similarities are the teacher's.
    """
    losses = [
        F.kl_div(
            similarity(*own, group).log_softmax(dim=1), similarity(*target, group).softmax(dim=1),
            reduction="batchmean",
        )
        for own, target in zip(student, teacher, strict=True)
    ]  # fmt: skip
    return torch.stack(losses).sum()
