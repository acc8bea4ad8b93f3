"""Whether weights work: the SHA-256 of each file, then the self-test of its network.

Apart from ``manage`` because it imports every network, which looking and fetching need not.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ganc.content.bisenet import load_bisenet, probe_bisenet
from ganc.content.segmentation import load_segmentation, probe_segmentation
from ganc.errors import WeightsError
from ganc.perceptual.distance import load_perceptual, probe_distance
from ganc.perceptual.features import load_features, probe_features
from ganc.progress import Progress, silent
from ganc.weights.cache import weights_path
from ganc.weights.manage import NAMES, PACKAGED, check_names, is_there, list_weights
from ganc.weights.probe import DISTANCE_ON
from ganc.weights.published import WEIGHTS


def _probe_distance(name: str) -> float:
    return probe_distance(load_perceptual(name, offline=True))


SELF_TESTS: dict[str, Callable[[], float]] = {
    "inception": lambda: probe_features(load_features("inception", offline=True)),
    **{name: partial(_probe_distance, distance) for name, distance in DISTANCE_ON.items()},
    "deeplabv3_resnet50": lambda: probe_segmentation(load_segmentation(offline=True)),
    "bisenet": lambda: probe_bisenet(load_bisenet(weights_path("bisenet", offline=True))),
    PACKAGED: lambda: probe_features(load_features(PACKAGED, offline=True)),
}
"""Loads the network and gives the number of its self-test; ganc has no network for the others."""


def verify_weights(
    names: Sequence[str] | None = None, *, progress: Progress = silent
) -> dict[str, Any]:
    """Check SHA-256s, then load every network and run its self-test.

    Args:
        names: Some of ``NAMES``; None is all that are there.
    Returns:
        As ``list_weights``; each row has "self_test" too (the number found; null where ganc has no
        network for the file) and "error" (null, or why the weights cannot be used).
    Raises:
        UsageError: A name is not known.
    """
    chosen = [name for name in NAMES if is_there(name)] if names is None else names
    check_names(chosen)
    tests = []
    for done, name in enumerate(chosen):
        progress("self-test", done, len(chosen))
        tests.append(_self_test(name))
    listed = list_weights(chosen, progress=progress)
    rows = [row | test for row, test in zip(listed["weights"], tests, strict=True)]
    return {**listed, "weights": rows}


def _self_test(name: str) -> dict[str, Any]:
    if not is_there(name):
        return {"self_test": None, "error": "missing"}
    try:
        if name in WEIGHTS:
            weights_path(name, offline=True)
        number = SELF_TESTS[name]() if name in SELF_TESTS else None
    except WeightsError as error:
        return {"self_test": None, "error": error.message}
    return {"self_test": number, "error": None}
