"""Meaningful directions in w, found in the teacher's style weights without data.

Source: Shen & Zhou 2021 (SeFa), Section 3: the directions that move a layer's styles most are the
leading eigenvectors of AᵀA, A being its affine weight; Xu et al. 2022 (StyleKD), Section 3.3.
"""

import torch
from torch import Tensor

from ganc.models.style import StyleGenerator


def similarity_blocks(depth: int, first: int, last: int) -> list[int]:
    """Return the blocks whose features are compared, clamped to the depth, each once.

    Args:
        depth: Number of synthesis blocks. Of StyleGAN2 block 0 is the one at 4 px; StyleGAN3's
            blocks are its layers.
    """
    return sorted({min(block, depth - 1) for block in range(first, last + 1)})


def leading_directions(teacher: StyleGenerator, last_block: int, per_block: int) -> Tensor:
    """Return the leading eigenvectors of each block's affine weights.

    A block's affine weights are those of its convolutions, stacked ([C_0 + C_1, D_w] for the two of
    a StyleGAN2 block; torgb has no say in features), each row scaled to unit length. Blocks 1 to
    ``last_block`` take part: the first one is not compared either.

    Args:
        last_block: The last block that is compared.
        per_block: Eigenvectors per block.
    Returns:
        [blocks · per_block, D_w], float32 on the CPU, unit length, by block and falling eigenvalue;
        signs are fixed (largest entry positive) so that every machine gets the same.
    """
    found = []
    for affines in teacher.feature_affines()[1 : last_block + 1]:
        weight = torch.cat([affine.weight for affine in affines])
        rows = torch.nn.functional.normalize(weight.detach().double().cpu(), dim=1)
        _, vectors = torch.linalg.eigh(rows.t() @ rows)  # rising eigenvalues, in columns
        found.append(vectors.flip(1)[:, :per_block].t())
    directions = torch.cat(found)
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return (directions * largest.sign()).float()


def draw_offsets(directions: Tensor, choice: Tensor, step_length: Tensor, scale: float) -> Tensor:
    """Return one step in w per sample: direction · N(0, 1) · scale, [N, D_w].

    Args:
        directions: [K, D_w].
        choice: Uniform in [0, 1), [N]: which direction.
        step_length: Standard normal, [N].
    """
    chosen = directions[(choice * len(directions)).long()]
    return chosen * (step_length * scale)[:, None]
