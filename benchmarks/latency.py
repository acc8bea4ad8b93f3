"""Generator latency: ours against the public implementation's way and bare convolutions.

StyleGAN2 of config-f's shape (or StyleGAN3-T's) with random weights, whole and pruned, the same
weights on every side. The public way of StyleGAN2, written plainly: every sample has its own kernel
in one grouped convolution, filters run over single-channel images, then noise, bias, activation and
gain each take a pass. StyleGAN3 is compared with the composition that training runs. "Convolutions"
are the dense convolutions of our own forward pass, alone, on the tensors it gave them. Where
`ganc doctor --build` was run, the compiled passes are one more side. All sides take turns in one
process; times are medians over the rounds. With one thread they are CPU seconds,
which other work on the machine moves less than wall time.

On CUDA, and with --brief, "public" is what the public code does there: a kernel per sample in
grouped convolutions, the other operators fused, for which it takes ours. Both ways run as they are
and recorded in a CUDA graph, ours compiled as well (by itself, and with the graphs that
torch.compile makes), in float32 with and without TF32 and under autocast. Times are between events
on the device.

    python benchmarks/latency.py                      # 256 px, whole and pruned, batch 1 and 8
    python benchmarks/latency.py --threads 2 --rounds 9
    python benchmarks/latency.py --profile            # where our time goes, operation by operation
    python benchmarks/latency.py --compile --models pruned --batches 1
    python benchmarks/latency.py --family stylegan3 --batches 1
    python benchmarks/latency.py --device cuda --brief
"""

import argparse
import contextlib
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import figures
import profiling
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

import ganc
from ganc.models import stylegan3
from ganc.models.model import Model
from ganc.models.style import StyleGenerator
from ganc.models.stylegan2 import Generator, SynthesisLayer, ToRGBLayer
from ganc.ops import layer_passes
from ganc.ops.modulated_conv2d import modulated_conv2d
from ganc.scoring.precision import arithmetic

Run = Callable[[], Any]

_CONVOLUTIONS = (F.conv2d, F.conv_transpose2d)

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
"""Of CUDA; on the CPU it is float32. fp32 is IEEE's, tf32 torch's default for convolutions."""
_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
BRIEF_PRECISIONS = ("tf32", "fp16")
COMPILE_MODES = {"ganc --compile": "default", "ganc --compile, graphs": "reduce-overhead"}
WARM_UP = 3  # calls before the clock; libraries are set up, graphs are recorded
GPU_ROUNDS = 20


def public_image(generator: Any, z: Tensor) -> Tensor:
    """Make images as the public implementation does."""
    w = generator.mapping(z).unbind(dim=1)
    x = img = None
    at = 0
    for _, block in generator.synthesis.blocks():
        if x is None:
            x = block.const.repeat(len(z), 1, 1, 1)
        else:
            x, at = _public_layer(block.conv0, x, w[at]), at + 1
        x, at = _public_layer(block.conv1, x, w[at]), at + 1
        rgb = _public_convolution(block.torgb, x, w[at]) + block.torgb.bias[:, None, None]
        img = rgb if img is None else rgb + _public_filter(img, block.resample_filter, 2, (2, 1))
    assert img is not None
    return img


def _public_layer(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    x = _public_convolution(layer, x, w)
    x = x + layer.noise_strength * layer.noise_const
    return F.leaky_relu(x + layer.bias[:, None, None], 0.2) * 2**0.5


def _public_convolution(layer: SynthesisLayer | ToRGBLayer, x: Tensor, w: Tensor) -> Tensor:
    batch, height, width = x.shape[0], *x.shape[2:]
    out_channels, in_channels, size, _ = layer.weight.shape
    # Our weights hold no 1/sqrt(fan-in); where outputs are demodulated it makes no difference.
    gain = layer.weight_gain if isinstance(layer, ToRGBLayer) else 1.0
    kernels = layer.weight[None] * layer.affine(w).reshape(batch, 1, in_channels, 1, 1) * gain
    if isinstance(layer, SynthesisLayer):
        norms = torch.rsqrt(kernels.pow(2).sum([2, 3, 4]) + 1e-8)
        kernels = kernels * norms.reshape(batch, out_channels, 1, 1, 1)
    x = x.reshape(1, batch * in_channels, height, width)
    if isinstance(layer, ToRGBLayer) or layer.up == 1:
        kernels = kernels.reshape(batch * out_channels, in_channels, size, size)
        x = F.conv2d(x, kernels, padding=size // 2, groups=batch)
        return x.reshape(batch, out_channels, height, width)
    kernels = kernels.transpose(1, 2).reshape(batch * in_channels, out_channels, size, size)
    x = F.conv_transpose2d(x, kernels, stride=2, groups=batch)
    x = x.reshape(batch, out_channels, *x.shape[2:])
    return _public_filter(x, layer.resample_filter, 1, (1, 1))


def _public_filter(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    """Insert zeros, pad, and filter every channel as an image of its own; brightness times 4."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch * channels, 1, height, 1, width, 1)
    x = F.pad(x, [0, up - 1, 0, 0, 0, up - 1]).reshape(batch * channels, 1, height * up, width * up)
    x = F.conv2d(F.pad(x, [*padding, *padding]), (kernel * 4).flip([0, 1])[None, None])
    return x.reshape(batch, channels, *x.shape[2:])


class Convolutions(TorchFunctionMode):
    """Records the dense convolutions that run inside it; calling it runs them again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Run] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS and kwargs.get("groups", 1) == 1:
            # Copies: what is recorded may be changed in place later. clone() keeps the format.
            kept = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
            self.calls.append(partial(func, *kept, **kwargs))
        return func(*args, **kwargs)

    def __call__(self) -> None:
        for call in self.calls:
            call()


class Case(NamedTuple):
    """A generator and what it is given."""

    name: str
    generator: StyleGenerator
    z: Tensor

    def reference(self) -> tuple[str, Run]:
        """Return what ours is compared with."""
        if isinstance(self.generator, Generator):
            return "public", partial(public_image, self.generator, self.z)
        return "training", torch.enable_grad()(partial(self.generator, self.z))

    def sides(self, with_compile: bool) -> dict[str, Run]:
        """Return what takes turns, the reference first."""
        generator: Any = self.generator
        plain = in_plain_torch(partial(generator, self.z))
        convolutions = Convolutions()
        with convolutions:
            plain()
        name, reference = self.reference()
        sides: dict[str, Run] = {name: reference, "ganc": plain, "convolutions": convolutions}
        if isinstance(generator, Generator) and layer_passes.are_there():
            sides["ganc, compiled passes"] = partial(generator, self.z)
        if with_compile:
            sides["ganc --compile"] = partial(torch.compile(generator), self.z)
        return sides

    def fused_sides(self, record: bool) -> Iterator[tuple[str, Run]]:
        """Yield what runs on CUDA, the reference first; each is over when the next is asked for.

        Args:
            record: As CUDA graphs.
        """
        device, run = self.z.device, cast(Run, partial(self.generator, self.z))
        grouped = partial(modulated_conv2d, impl="grouped")
        suffix = ", CUDA graph" if record else ""
        with profiling.replaced(modulated_conv2d, grouped):
            yield f"public{suffix}", recorded(run, device) if record else run
        yield f"ganc{suffix}", recorded(run, device) if record else run

    def compiled_sides(self, titles: Sequence[str]) -> Iterator[tuple[str, Run]]:
        """Yield ours compiled, in some of ``COMPILE_MODES``."""
        for title in titles:
            torch.compiler.reset()
            made: Any = torch.compile(self.generator, mode=COMPILE_MODES[title])
            yield title, partial(made, self.z)


def in_plain_torch(run: Run) -> Run:
    """Return a call that leaves out the compiled passes."""

    def call() -> Any:
        before, layer_passes.are_there = layer_passes.are_there, lambda: False
        try:
            return run()
        finally:
            layer_passes.are_there = before

    return call


def recorded(run: Run, device: torch.device) -> Run:
    """Return the replay of a call as a CUDA graph: same inputs, results in the same memory."""
    if device.type != "cuda":
        return run  # a rehearsal
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        images = run()

    def replay() -> Tensor:
        graph.replay()
        return images

    return replay


@contextlib.contextmanager
def precise(name: str, device: torch.device) -> Iterator[None]:
    """Compute in one of ``PRECISIONS``."""
    # As ours is given to users: autocast keeps weights in float32 and rounds them at each call.
    half = torch.autocast(device.type, _AUTOCAST.get(name), enabled=name in _AUTOCAST,
                          cache_enabled=False)  # fmt: skip
    with arithmetic("fp32" if name == "fp32" else "tf32"), half:
        yield


def make_generators(
    family: str, resolution: int, speedup: float, channel_max: int, device: torch.device
) -> dict[str, StyleGenerator]:
    """Return a family's usual generator with random weights and noise in use, whole and pruned."""
    torch.manual_seed(0)
    generator = FAMILIES[family](resolution, channel_max).eval()
    for layer in generator.modules():
        if isinstance(layer, SynthesisLayer):
            layer.noise_strength.data.fill_(0.1)
    model = Model(generator=generator)
    student = ganc.prune(model, ganc.score(model, "random"), speedup=speedup).generator
    assert isinstance(student, StyleGenerator)
    return {
        name: made.eval().requires_grad_(False).to(device)  # so that even "training" keeps no graph
        for name, made in (("whole", generator), ("pruned", student))
    }


def _stylegan3(resolution: int, channel_max: int) -> StyleGenerator:
    """Return StyleGAN3-T with the channels that its authors advise for a size."""
    base = 32768 if resolution > 256 else 16384
    mapping = {"num_layers": 2}
    return stylegan3.Generator(
        512,
        0,
        512,
        resolution,
        3,
        channel_base=base,
        channel_max=channel_max,
        mapping_kwargs=mapping,
    )


FAMILIES: dict[str, Callable[[int, int], StyleGenerator]] = {
    "stylegan2": lambda resolution, most: Generator(512, 0, 512, resolution, 3, channel_max=most),
    "stylegan3": _stylegan3,
}


def measure(sides: dict[str, Run], rounds: int, threads: int) -> dict[str, float]:
    """Let the sides take turns: median milliseconds of each."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(rounds + 1):  # the first one warms up
        for name, side in sides.items():
            start = clock()
            side()
            if round_number:
                times[name].append(1000 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def difference(case: Case) -> float:
    """Return how far our images are from the reference's, relative to their largest value."""
    ours, theirs = case.generator(case.z), case.reference()[1]()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def rows(case: Case, medians: dict[str, float], first: float) -> list[str]:
    """Return one markdown row per side."""
    batch = len(case.z)
    work = case.generator.macs() * batch / 1e6  # GMAC per second from milliseconds
    reference = next(iter(medians.values()))
    return [
        f"| {case.name} | {batch} | {name} | {ms:.0f} | {work / ms:.1f}"
        f" | {reference / ms:.2f}x | {first / ms:.2f}x"
        f" | {medians['convolutions'] / ms:.0%} |"
        for name, ms in medians.items()
    ]


class FusedTable:
    """Measures models, batches and precisions; prints and records each row as it comes."""

    def __init__(self, generators: dict[str, StyleGenerator], settings: argparse.Namespace) -> None:
        self.generators, self.settings = generators, settings
        self.device = torch.device(settings.device)
        self.references: dict[tuple[str, int, str], float] = {}
        self.firsts: dict[int, float] = {}

    def run(self) -> None:
        """Measure everything; what may fail or take minutes comes last."""
        columns = ("model", "batch", "precision", "side", "ms", "against public",
                   "against the first row", "images apart")  # fmt: skip
        print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n", flush=True)
        settings = self.settings
        for record, name, batch in itertools.product(
            (False, True), settings.models, settings.batches
        ):
            case = make_case(name, self.generators[name], batch, self.device)
            for precision in settings.precisions:
                self.add(case, precision, case.fused_sides(record))
        for name, batch, precision in settings.compiled:
            case = make_case(name, self.generators[name], batch, self.device)
            self.add(case, precision, case.compiled_sides(settings.compile_modes))

    def add(self, case: Case, precision: str, sides: Iterator[tuple[str, Run]]) -> None:
        """Measure some sides of a case in one precision."""
        with precise("fp32", self.device):
            exact = case.generator(case.z)
        with precise(precision, self.device):
            for side, run in sides:
                apart = float((run().float() - exact).abs().max() / exact.abs().max())
                self._row(case, precision, side, event_ms(run, self.settings.rounds), apart)

    def _row(self, case: Case, precision: str, side: str, ms: float, apart: float) -> None:
        batch, settings = len(case.z), self.settings
        ratio = self.references.setdefault((case.name, batch, precision), ms) / ms
        overall = self.firsts.setdefault(batch, ms) / ms
        print(f"| {case.name} | {batch} | {precision} | {side} | {ms:.3f} | {ratio:.2f}x"
              f" | {overall:.2f}x | {apart:.1e} |", flush=True)  # fmt: skip
        figures.record(
            settings.figures, "latency", family=settings.family, resolution=settings.resolution,
            model=case.name, batch=batch, precision=precision, side=side, ms=ms,
            times_public=ratio, times_first=overall, images_apart=apart,
            gmacs=case.generator.macs() / 1e9, machine=machine(settings),
        )  # fmt: skip


def event_ms(run: Run, rounds: int) -> float:
    """Return the median milliseconds of a call, from its first launch to its last kernel's end."""
    is_cuda = torch.cuda.is_available()
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(rounds):
        if not is_cuda:
            start = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - start))
            continue
        torch.cuda.synchronize()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    return statistics.median(times)


def speed_table(generators: dict[str, StyleGenerator], settings: argparse.Namespace) -> list[str]:
    """Measure models and batches on the CPU: markdown lines."""
    lines = [
        "| model | batch | side | ms | GMAC/s | against its first row | against the first model's |"
        " of convolutions' rate |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    firsts: dict[int, float] = {}
    notes = []
    for name in settings.models:
        for batch in settings.batches:
            case = make_case(name, generators[name], batch, torch.device("cpu"))
            notes.append(f"{name}, batch {batch}: images differ by {difference(case):.1e}")
            sides = case.sides(settings.compile)
            medians = measure(sides, settings.rounds, settings.threads)
            first = firsts.setdefault(batch, next(iter(medians.values())))
            lines += rows(case, medians, first)
            for side, ms in medians.items():
                figures.record(
                    settings.figures, "latency", family=settings.family,
                    resolution=settings.resolution, model=name, batch=batch, precision="fp32",
                    side=side, ms=ms, times_public=next(iter(medians.values())) / ms,
                    gmacs=case.generator.macs() / 1e9, machine=machine(settings),
                )  # fmt: skip
    return [*lines, "", *notes, ""]


def make_case(name: str, generator: StyleGenerator, batch: int, device: torch.device) -> Case:
    """Draw what a generator is given."""
    z = torch.randn(batch, generator.z_dim, generator=torch.Generator().manual_seed(1))
    return Case(name, generator, z.to(device))


def machine(settings: argparse.Namespace) -> str:
    """Name what the numbers were measured on."""
    if torch.device(settings.device).type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    kind = platform.processor() or platform.machine()
    return f"{kind}, torch {torch.__version__}, {settings.threads} threads"


def profile_lines(case: Case) -> list[str]:
    """List where our forward pass spends its time: markdown lines."""
    case.generator(case.z)
    with torch.profiler.profile(record_shapes=True) as profile:
        case.generator(case.z)
    events = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    lines = [f"{case.name}, batch {len(case.z)}", "", "| operation | calls | ms | share |"]
    lines += ["|---|---|---|---|"]
    lines += [
        f"| `{e.key}` | {e.count} | {e.self_cpu_time_total / 1e3:.1f}"
        f" | {e.self_cpu_time_total / total:.1%} |"
        for e in events[:14]
    ]
    return [*lines, ""]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--family", choices=[*FAMILIES], default="stylegan2")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--channel-max", type=int, default=512, help="of the widest layer")
    parser.add_argument("--speedup", type=float, default=10.9, help="of the pruned one, in MACs")
    parser.add_argument("--models", nargs="+", choices=["whole", "pruned"],
                        default=["whole", "pruned"])  # fmt: skip
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, help=f"default: 5, on CUDA {GPU_ROUNDS}")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS),
                        help="of CUDA")  # fmt: skip
    parser.add_argument("--compile", nargs="*", choices=[*COMPILE_MODES.values()],
                        help="torch.compile of ours as well; modes, default: all")  # fmt: skip
    parser.add_argument(
        "--brief", action="store_true", help="two precisions, one compilation: about a minute"
    )
    parser.add_argument("--profile", action="store_true", help="operations instead of sides")
    parser.add_argument("--output", type=Path, help="write the markdown here as well")
    figures.add_option(parser)
    settings = parser.parse_args()
    is_cuda = torch.device(settings.device).type == "cuda"
    settings.rounds = settings.rounds or (GPU_ROUNDS if is_cuda else 5)
    asked = settings.compile if settings.compile is not None else []
    settings.compile = settings.compile is not None
    wanted = asked or COMPILE_MODES.values()
    settings.compile_modes = [
        title for title, mode in COMPILE_MODES.items() if settings.compile and mode in wanted
    ]
    if settings.brief:
        settings.precisions = [p for p in BRIEF_PRECISIONS if p in settings.precisions]
        settings.compile_modes = list(COMPILE_MODES)[-1:]
    compiled = itertools.product(settings.models, settings.batches, settings.precisions)
    settings.compiled = list(compiled)[-1:] if settings.brief else list(compiled)
    return settings


@torch.no_grad()
def main() -> None:
    settings = parse()
    device = torch.device(settings.device)
    torch.set_num_threads(settings.threads)
    generators = make_generators(
        settings.family, settings.resolution, settings.speedup, settings.channel_max, device
    )
    lines = [
        f"{machine(settings)}, median of {settings.rounds}; {settings.family},"
        f" {settings.resolution} px, {generators['whole'].macs() / 1e9:.1f} and"
        f" {generators['pruned'].macs() / 1e9:.2f} GMAC",
        "",
    ]
    if settings.profile:
        for name in settings.models:
            for batch in settings.batches:
                lines += profile_lines(make_case(name, generators[name], batch, device))
    elif device.type == "cuda" or settings.brief:
        print("\n".join(lines), flush=True)
        FusedTable(generators, settings).run()
        return
    else:
        lines += speed_table(generators, settings)
    text = "\n".join(lines)
    print(text, end="")
    if settings.output is not None:
        settings.output.write_text(text)


if __name__ == "__main__":
    main()
