"""How far two scores of one checkpoint agree."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganc.errors import ScoresError, UsageError
from ganc.scores import Scores, kept_channels
from ganc.scoring.mix import normalised_ranks
from ganc.scoring.scorer import overlap


def compare_scores(a: Scores, b: Scores, prune_ratio: float = 0.7) -> dict[str, Any]:
    """Return how far two scores rank, and keep, the same channels.

    Args:
        a, b: Scores of one model, by any methods; the result does not depend on their order.
        prune_ratio: Fraction of every group that pruning would remove.
    Returns:
        JSON data. ``groups``: per group ``name, width, kept``, ``overlap`` (share of the kept
        channels that both keep) and ``spearman`` (rank correlation, equal scores sharing their
        mean rank; None where one of them gives all channels the same score). At the top the same
        over all groups: ``overlap`` counts channels, ``spearman`` is the mean of the groups',
        weighted by width (scores of different groups cannot be ranked against each other).
    Raises:
        UsageError: ``prune_ratio`` is outside [0, 1).
        ScoresError: They are of different checkpoints, or of different groups.
    """
    if not 0 <= prune_ratio < 1:
        raise UsageError(f"--prune-ratio {prune_ratio:g} is outside [0, 1)")
    check_comparable(b, a.content_hash, {name: len(values) for name, values in a.values.items()})
    groups: list[dict[str, Any]] = [
        {
            "name": name,
            "width": len(values),
            "kept": len(kept_channels(values, prune_ratio)),
            "overlap": overlap({name: values}, {name: b[name]}, prune_ratio),
            "spearman": spearman(values, b[name]),
        }
        for name, values in a.values.items()
    ]
    defined = [group for group in groups if group["spearman"] is not None]
    weight = sum(group["width"] for group in defined)
    return {
        "prune_ratio": prune_ratio,
        "width": sum(group["width"] for group in groups),
        "kept": sum(group["kept"] for group in groups),
        "overlap": overlap(a.values, b.values, prune_ratio),
        "spearman": (
            sum(group["spearman"] * group["width"] for group in defined) / weight
            if defined
            else None
        ),
        "groups": groups,
    }


def check_comparable(
    scores: Scores,
    content_hash: str | None,
    widths: Mapping[str, int],
    where: str = "the scores to compare with",
) -> None:
    """Refuse to compare with scores of anything but this.

    Args:
        scores: The scores in question.
        content_hash: That of the checkpoint they should be of; None where nobody knows it.
        widths: The groups they should speak of, and their channels.
        where: What messages call them.
    Raises:
        ScoresError: They are of another checkpoint, or of other groups.
    """
    if None not in (content_hash, scores.content_hash) and content_hash != scores.content_hash:
        raise ScoresError(
            f"{where} are of another checkpoint"
            f" ({str(scores.content_hash)[:12]}…, not {str(content_hash)[:12]}…)",
            "compare scores of one checkpoint: ganc score CKPT --method M",
        )
    found = {name: len(values) for name, values in scores.values.items()}
    for name in [*widths, *found]:
        if widths.get(name) != found.get(name):
            raise ScoresError(
                f"{where} have {_channels(found.get(name))} in group {name}, not"
                f" {_channels(widths.get(name))}",
                "score the same networks, both with --discriminator or both without",
            )


def _channels(width: int | None) -> str:
    return "no channels" if width is None else f"{width} channels"


def spearman(one: Tensor, other: Tensor) -> float | None:
    """Return the correlation of the ranks of two vectors [n]; None where one is constant."""
    x, y = (normalised_ranks(values) - 0.5 for values in (one, other))  # mean ranks have mean 1/2
    scale = (x.square().sum() * y.square().sum()).sqrt().item()
    return (x @ y).item() / scale if scale > 0 else None
