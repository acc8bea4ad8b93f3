"""Time short pieces of work in turns, on a GPU without what the host takes to start them."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Call = Callable[[], object]

LARGEST_CACHE = 256 * 2**20
"""Bytes; larger than any GPU's second-level cache. What takes turns over as much reads memory."""


def milliseconds(sides: dict[str, list[Call]], device: torch.device, runs: int) -> dict[str, float]:
    """Time each side's calls.

    On CUDA each side's calls become one graph; its replays take turns in random order.

    Args:
        sides: Name → the same work on several inputs, which together outgrow the cache.
        runs: Replays per side.
    Returns:
        Name → median milliseconds of one call.
    """
    timers = {name: _timer(calls, device) for name, calls in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(runs + 1):  # the first one warms up
        for name in random.sample(list(sides), len(sides)):
            spent = timers[name]()
            if number:
                times[name].append(spent / len(sides[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def host_microseconds(call: Call, device: torch.device, runs: int = 200) -> float:
    """Return what starting a small call takes the host: the median of five series of ``runs``."""
    series = []
    for _ in range(6):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(runs):
            call()
        series.append((time.perf_counter() - start) / runs)
        synchronise(device)
    return 1e6 * statistics.median(series[1:])


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Run on a stream that a graph can capture: a backward pass runs where its forward ran."""
    if device.type != "cuda":
        yield
        return
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]


def _timer(calls: list[Call], device: torch.device) -> Callable[[], float]:
    """Return what runs all calls once and says how many milliseconds that took."""
    if device.type != "cuda":
        return lambda: _clocked(calls)
    with side_stream(device):
        for _ in range(2):
            for call in calls:
                call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=_stream(device)):
        for call in calls:
            call()

    def replay() -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(stop)

    return replay


def _clocked(calls: list[Call]) -> float:
    start = time.perf_counter()
    for call in calls:
        call()
    return 1000 * (time.perf_counter() - start)


def synchronise(device: torch.device) -> None:
    """Wait for what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
