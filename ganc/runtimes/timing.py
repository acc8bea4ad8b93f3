"""How long a call takes: wall time after a warm-up."""

import time
from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 3
MIN_RUNS, MAX_RUNS = 5, 100
ENOUGH_SEC = 2.0  # a median of 100 runs, or of what fits into this, but never of fewer than 5


WORTH = 1.05
"""Below this factor a difference between two medians on a quiet machine says nothing."""


def time_runs(
    run: Callable[[], Any],
    device: torch.device,
    *,
    max_runs: int = MAX_RUNS,
    enough_sec: float = ENOUGH_SEC,
) -> list[float]:
    """Time a call after a warm-up, until all that it started on the device is finished.

    Returns:
        Milliseconds per run: ``max_runs`` of them, or as many as fit into ``enough_sec``, but at
        least ``MIN_RUNS``.
    """
    for _ in range(WARM_UP):
        _timed_run(run, device)
    times: list[float] = []
    while len(times) < MIN_RUNS or (len(times) < max_runs and sum(times) < 1000 * enough_sec):
        times.append(_timed_run(run, device))
    return times


def _timed_run(run: Callable[[], Any], device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter()
    run()
    _synchronise(device)
    return 1000 * (time.perf_counter() - start)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
