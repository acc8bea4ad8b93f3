"""Diversity scores: ours against the published way of computing them, on the same samples.

The published way, written plainly: for every direction both images are made anew, and one backward
pass goes through both, for the gradient of every parameter; torch's own defaults (on CUDA: TF32 in
convolutions). Ours makes the base image once per batch, asks for the gradients that are read, and
runs as many directions at once, in such arithmetic, as the table's rows say. All take turns in one
process; seconds are the best round's, memory is what a side adds to what was held before it.

    python benchmarks/diversity_speed.py                       # the embedded 32 px face teacher
    python benchmarks/diversity_speed.py --resolution 256 --batches 1 --batch 2 --rounds 1
    python benchmarks/diversity_speed.py --agreement           # kept channels per precision
    python benchmarks/diversity_speed.py --auto                # samples until two halves agree
    python benchmarks/diversity_speed.py --profile             # where both sides spend their time
    python benchmarks/diversity_speed.py --device cuda --brief # the main rows, under a minute
    python benchmarks/diversity_speed.py --device cuda --all --output table.md
"""

import argparse
import copy
import ctypes
import dataclasses
import itertools
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import figures
import profiling
import torch
from torch import Tensor

import ganc
from ganc.models.model import Model
from ganc.models.stylegan2 import Generator
from ganc.scoring.diversity import Diversity
from ganc.scoring.read import mean_abs
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import overlap, run

ALPHA = 5.0
PRUNE_RATIO = 0.7
ALL_PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "bf16")}

Values = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Way:
    """How ours computes; see ``ScoreRequest``."""

    precision: str
    direction_batch: int
    channels_last: bool = False
    cuda_graphs: bool = False

    def __str__(self) -> str:
        named = f"`--precision {self.precision} --direction-batch {self.direction_batch}`"
        flags = (("channels_last", self.channels_last), ("CUDA graphs", self.cuda_graphs))
        return ", ".join([named, *(name for name, is_on in flags if is_on)])


BRIEF = {
    32: (
        Way("fp32", 1), Way("fp32", 10), Way("tf32", 10), Way("fp32", 10, channels_last=True),
        Way("fp32", 1, cuda_graphs=True), Way("fp32", 10, cuda_graphs=True),
        Way("tf32", 10, cuda_graphs=True),
    ),
    256: (
        Way("tf32", 1, channels_last=True), Way("bf16", 1, channels_last=True),
        Way("bf16", 10, channels_last=True), Way("tf32", 10, channels_last=True),
        Way("tf32", 1, channels_last=True, cuda_graphs=True),
        Way("bf16", 1, channels_last=True, cuda_graphs=True),
        Way("bf16", 10, channels_last=True, cuda_graphs=True),
    ),
}  # fmt: skip
"""By resolution: small images are a matter of launches, large ones of arithmetic and layout."""
BRIEF_BATCHES = {32: 12, 256: 6}
BRIEF_ROUNDS = 1  # after a batch that compiles


def published(generator: Any, latents: Tensor, directions: Tensor, batch: int) -> Values:
    """Score as the published loop does."""
    groups = generator.groups()
    device = latents.device
    scores = {g.name: torch.zeros(g.width, dtype=torch.float64, device=device) for g in groups}
    for number, w in enumerate(latents.split(batch)):
        rows = []
        for direction in directions[number]:
            generator.zero_grad(set_to_none=True)
            images = [
                generator.synthesis(
                    point[:, None].expand(-1, generator.num_ws, -1), noise_mode="const"
                )
                for point in (w, w + ALPHA * direction)
            ]
            (images[1] - images[0]).abs().sum().backward()
            gradients = {
                name: parameter.grad
                for name, parameter in generator.named_parameters()
                if parameter.grad is not None
            }
            rows.append({group.name: mean_abs(gradients, group) for group in groups})
        for group in groups:
            sensitivity = torch.stack([row[group.name] for row in rows])
            scores[group.name] += (sensitivity - sensitivity.mean(dim=0)).square().sum(dim=0)
    generator.zero_grad(set_to_none=True)
    return {name: values.cpu() for name, values in scores.items()}


class Case(NamedTuple):
    """A model, and what both sides score it on."""

    name: str
    model: Model
    latents: Tensor
    directions: Tensor
    batch: int

    def published(self) -> Values:
        return published(self.model.generator, self.latents, self.directions, self.batch)

    def ours(self, way: Way) -> Values:
        request = ScoreRequest(
            samples=len(self.latents), batch=self.batch, latents=self.latents,
            directions=self.directions, noise_mode="const", alpha=ALPHA, gradient="both",
            device=self.latents.device, **dataclasses.asdict(way),
        )  # fmt: skip
        return run(Diversity(copy.deepcopy(self.model), request), request).values

    def first(self) -> "Case":
        """Return the case of the first batch alone."""
        latents, directions = self.latents[: self.batch], self.directions[:1]
        return self._replace(latents=latents, directions=directions)


def make_case(
    resolution: int | None,
    batches: int,
    batch: int,
    num_directions: int,
    device: torch.device,
    channel_max: int = 512,
) -> Case:
    """Return the embedded teacher, or config-f of a size with random weights."""
    if resolution is None:
        with resources.as_file(resources.files("ganc.showcase")) as carried:
            model, name = ganc.load(carried / "faces32.safetensors"), "embedded teacher, 32 px"
    else:
        torch.manual_seed(0)
        generator = Generator(512, 0, 512, resolution, 3, channel_max=channel_max)
        model = Model(generator=generator.eval())
        name = f"config-f, {resolution} px"
    made = model.generator
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        z = torch.randn(batches * batch, made.z_dim, generator=random)
        latents = made.mapping(z)[:, 0]
    directions = torch.randn(batches, num_directions, made.w_dim, generator=random)
    directions /= directions.norm(dim=2, keepdim=True)
    name += f": {batches} x {batch} samples, {num_directions} directions"
    return Case(name, model.to(device), latents.to(device), directions.to(device), batch)


class Peak:
    """The memory that a block adds to what was held before it, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.added = device, 0

    def __enter__(self) -> "Peak":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # hand back what another side has freed
            self.before, self.is_over = _resident(), threading.Event()
            self.watcher = threading.Thread(target=self._watch)
            self.watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.added = torch.cuda.max_memory_allocated(self.device) - self.before
        else:
            self.is_over.set()
            self.watcher.join()

    def _watch(self) -> None:
        while not self.is_over.wait(0.005):
            self.added = max(self.added, _resident() - self.before)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class Measured(NamedTuple):
    """What a side gave, the seconds of its best round, the bytes of its worst."""

    values: Values
    seconds: float
    added: int


Side = Callable[[Case], Values]


def measure(case: Case, sides: dict[str, Side], rounds: int) -> dict[str, Measured | None]:
    """Run the sides in turns; None where one runs out of memory.

    On CUDA each meets one batch first: kernels are loaded when they are first used.
    """
    found: dict[str, Measured | None] = {}
    for round_number in range(rounds):
        for name, side in sides.items():
            before = found.get(name)
            if round_number and before is None:
                continue
            try:
                if round_number == 0 and case.latents.device.type == "cuda":
                    torch.cuda.empty_cache()
                    side(case.first())
                now = _once(case, side)
            except torch.OutOfMemoryError:
                found[name] = None
                continue
            print(f"{case.name}, {name}: {now.seconds:.3f} s", file=sys.stderr, flush=True)
            if before is not None:
                least, most = min(before.seconds, now.seconds), max(before.added, now.added)
                now = Measured(now.values, least, most)
            found[name] = now
    return found


def _once(case: Case, side: Side) -> Measured:
    device = case.latents.device
    with Peak(device) as peak:
        synchronise(device)
        start = time.perf_counter()
        values = side(case)
        synchronise(device)
        seconds = time.perf_counter() - start
    return Measured(values, seconds, peak.added)


def synchronise(device: torch.device) -> None:
    """Wait for what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ways(arguments: argparse.Namespace) -> list[Way]:
    """Return every combination that was asked for."""
    pairs = itertools.product(arguments.precisions, arguments.direction_batches)
    return [Way(*pair, arguments.channels_last, arguments.cuda_graphs) for pair in pairs]


def speed_table(case: Case, chosen: list[Way], rounds: int, figures_path: Path | None) -> list[str]:
    """Time all ways on the same samples and compare their scores: markdown lines."""
    sides: dict[str, Side] = {"published": Case.published}
    for way in chosen:
        sides[str(way)] = lambda case, way=way: case.ours(way)  # type: ignore[misc]
    found = measure(case, sides, rounds)
    reference = found["published"]
    lines = [
        f"{case.name}; best of {rounds}", "",
        "| way | time | against published | same kept channels | largest difference | memory |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, side in found.items():
        if side is None or reference is None:
            lines.append(f"| {name} | out of memory | | | | |")
            continue
        same = overlap(side.values, reference.values, PRUNE_RATIO)
        ratio, apart = reference.seconds / side.seconds, difference(side.values, reference.values)
        figures.record(
            figures_path, "diversity_speed", case=case.name, way=name, seconds=side.seconds,
            times_published=ratio, same_kept=same, largest_difference=apart,
            added_bytes=side.added, machine=machine(case.latents.device),
        )  # fmt: skip
        lines.append(
            f"| {name} | {side.seconds:.3f} s | {ratio:.2f}x | {same:.4f} | {apart:.1e}"
            f" | {side.added / 2**30:.2f} GiB |"
        )
    return [*lines, ""]


def difference(one: Values, other: Values) -> float:
    """Return the largest relative difference of a channel's scores."""
    return max(
        float(((one[name] - values).abs() / values.clamp(min=1e-300)).max())
        for name, values in other.items()
    )


def agreement_table(
    chosen: list[Way], samples: int, device: torch.device, figures_path: Path | None
) -> list[str]:
    """Score the embedded teacher in several ways and compare what is kept: markdown lines."""
    model = make_case(None, 1, 5, 10, device).model
    reference = dataclasses.replace(chosen[0], precision="fp32")
    lines = [
        f"embedded teacher, 32 px: {samples} samples, drawn noise", "",
        "| way | time | channels kept as in the first row, at 0.5 | 0.7 | 0.9 |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    exact: Values = {}
    for way in (reference, *(way for way in chosen if way.precision != "fp32")):
        request = ScoreRequest(
            samples=samples, batch=5, alpha=ALPHA, gradient="both", device=device,
            **dataclasses.asdict(way),
        )  # fmt: skip
        start = time.perf_counter()
        values = run(Diversity(copy.deepcopy(model), request), request).values
        seconds = time.perf_counter() - start
        exact = exact or values
        same = [overlap(values, exact, ratio) for ratio in (0.5, PRUNE_RATIO, 0.9)]
        figures.record(
            figures_path, "diversity_speed agreement", way=str(way), samples=samples,
            seconds=seconds, same_kept=same, prune_ratios=[0.5, PRUNE_RATIO, 0.9],
            machine=machine(device),
        )  # fmt: skip
        lines.append(f"| {way} | {seconds:.1f} s | " + " | ".join(f"{s:.4f}" for s in same) + " |")
    return [*lines, ""]


def auto_lines(seed: int, direction_batch: int, device: torch.device) -> list[str]:
    """Compare ``--samples auto`` with the full number of samples."""
    model = make_case(None, 1, 5, 10, torch.device("cpu")).model
    settings: dict[str, Any] = {"seed": seed, "direction_batch": direction_batch, "device": device}
    runs = []
    for samples in ("auto", None):
        start = time.perf_counter()
        scores = ganc.score(
            model, "diversity", samples=samples, prune_ratio=PRUNE_RATIO, **settings
        )
        runs.append((scores, time.perf_counter() - start))
    (auto, quick), (full, slow) = runs
    same = overlap(dict(auto.values), dict(full.values), PRUNE_RATIO)
    return [
        f"`--samples auto` took {auto.settings['samples']} samples and {quick:.0f} s, all"
        f" {full.settings['samples']} took {slow:.0f} s: {slow / quick:.2f}x; kept channels in"
        f" common {same:.4f}", "",
    ]  # fmt: skip


def profile_lines(case: Case, way: Way) -> list[str]:
    """List where both sides spend their time: markdown lines."""
    lines = [case.name, ""]
    sides: dict[str, Side] = {"published": Case.published, str(way): lambda case: case.ours(way)}
    for name, side in sides.items():
        side(case.first())
        costs = profiling.Costs(case.latents.device)
        costs.add(lambda: side(case))  # noqa: B023 (called at once)
        seconds = _once(case, side).seconds
        waits = profiling.waits(lambda: side(case), case.latents.device)  # noqa: B023
        lines += [
            f"{name}: {seconds:.3f} s, {costs.calls.total():.0f} kernels that take"
            f" {costs.total / 1e6:.3f} s; {waits.total()} waits of the host {dict(waits)}", "",
            *costs.lines(),
        ]  # fmt: skip
    return lines


def brief(arguments: argparse.Namespace, device: torch.device) -> Iterator[list[str]]:
    """Measure the main rows of both sizes; CUDA graphs, which may fail, last."""
    ways_to_launch = (False, True) if device.type == "cuda" else (False,)
    for is_recorded, (size, resolution) in itertools.product(
        ways_to_launch, ((32, None), (256, arguments.resolution or 256))
    ):
        batches = arguments.batches or BRIEF_BATCHES[size]
        case = make_case(
            resolution, batches, arguments.batch, arguments.directions, device,
            arguments.channel_max,
        )  # fmt: skip
        chosen = [
            way
            for way in BRIEF[size]
            if way.precision in ALL_PRECISIONS[device.type] and way.cuda_graphs == is_recorded
        ]
        yield speed_table(case, chosen, BRIEF_ROUNDS, arguments.figures)
        if arguments.profile and not is_recorded:
            yield profile_lines(case, chosen[0])


def everything(arguments: argparse.Namespace, device: torch.device) -> Iterator[list[str]]:
    """Measure all that is reported of a machine with a GPU; minutes on a fast one."""
    for resolution, batches in ((None, 8), (arguments.resolution or 256, 3)):
        case = make_case(
            resolution, arguments.batches or batches, arguments.batch, arguments.directions, device,
            arguments.channel_max,
        )  # fmt: skip
        yield speed_table(case, ways(arguments), arguments.rounds, arguments.figures)
    yield agreement_table(widest(arguments), arguments.samples, device, arguments.figures)
    if not arguments.no_auto:
        yield auto_lines(arguments.seed, max(arguments.direction_batches), device)


def widest(arguments: argparse.Namespace) -> list[Way]:
    """Return the ways that run most directions at once."""
    most = max(arguments.direction_batches)
    return [way for way in ways(arguments) if way.direction_batch == most]


def machine(device: torch.device) -> str:
    """Name the machine."""
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--resolution", type=int, help="config-f of this size, random weights")
    parser.add_argument("--channel-max", type=int, default=512, help="of config-f's widest layer")
    parser.add_argument("--batches", type=int, help="default: 4; others with --brief and --all")
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--directions", type=int, default=10)
    parser.add_argument("--direction-batches", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--precisions", nargs="+", help="default: all that the device has")
    parser.add_argument("--channels-last", action="store_true", help="lay out ours so")
    parser.add_argument("--cuda-graphs", action="store_true", help="let ours replay CUDA graphs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1000, help="of --agreement and --all")
    parser.add_argument("--no-auto", action="store_true", help="leave --auto out of --all")
    parser.add_argument("--seed", type=int, default=0, help="of --auto")
    parser.add_argument(
        "--profile", action="store_true",
        help="where both sides spend their time; with --brief, beside the tables",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="write the markdown here as well")
    figures.add_option(parser)
    what = parser.add_mutually_exclusive_group()
    for name in ("--auto", "--agreement", "--all", "--brief"):
        what.add_argument(name, action="store_true")
    return parser.parse_args()


def tables(arguments: argparse.Namespace, device: torch.device) -> Iterator[list[str]]:
    """Yield the markdown lines of what was asked for, table by table."""
    if arguments.brief:
        yield from brief(arguments, device)
    elif arguments.all:
        yield from everything(arguments, device)
    elif arguments.auto:
        yield auto_lines(arguments.seed, max(arguments.direction_batches), device)
    elif arguments.agreement:
        yield agreement_table(widest(arguments), arguments.samples, device, arguments.figures)
    else:
        case = make_case(
            arguments.resolution, arguments.batches or 4, arguments.batch, arguments.directions,
            device, arguments.channel_max,
        )  # fmt: skip
        chosen = ways(arguments)
        yield (
            profile_lines(case, chosen[-1]) if arguments.profile
            else speed_table(case, chosen, arguments.rounds, arguments.figures)
        )  # fmt: skip


def main() -> None:
    arguments = parse()
    device = torch.device(arguments.device)
    if arguments.precisions is None:
        arguments.precisions = list(ALL_PRECISIONS[device.type])
    text = ""
    for lines in itertools.chain([[machine(device), ""]], tables(arguments, device)):
        text += "\n".join(lines) + "\n"
        print("\n".join(lines), flush=True)
    if arguments.output is not None:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
