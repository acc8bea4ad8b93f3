"""A distillation step: ours against a plain re-implementation of the published training loop.

The plain side is written as the public loops of content-aware compression and StyleGAN2 are: a
phase after the other, w and w + offset in passes of their own on both networks, gradients of the
perceptual distance through the teacher's image as well, Adam and the weight average as they come,
every loss read by ``.item()`` in every step; float32 with PyTorch's own switches (on CUDA its
convolutions take TF32). Both sides use ganc's layers, the same weights and the same random numbers;
the plain side's are drawn before its clock starts. ganc's layers scale features around one dense
convolution, which is torch's own on the plain side; "published, grouped" gives every sample its own
kernel in one grouped convolution, as the public code does. Every variant runs in a process of its
own, in turns, and the best round counts; the first steps, in exact float32, must give the same
losses.

    python benchmarks/distill_step.py                               # the embedded 32 px teacher
    python benchmarks/distill_step.py --resolution 256 --device cuda --output step256.md
    python benchmarks/distill_step.py --resolution 256 --device cuda --brief    # about a minute
    python benchmarks/distill_step.py --resolution 256 --device cuda --profile "ganc bf16"
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import gc
import json
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import figures
import lpips
import profiling
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ganc
from ganc.distillation.draws import Draws, MixedLatents
from ganc.distillation.execution import Execution, PhaseTimes
from ganc.distillation.networks import starting_model
from ganc.distillation.reals import RealBatch
from ganc.distillation.recipes import Recipe, resolve_recipe
from ganc.distillation.trainer import Distance, Parts, ema_beta
from ganc.distillation.trainers.losses import path_lengths
from ganc.distillation.trainers.style import StyleTrainer, style_generator
from ganc.models import stylegan2, stylegan3
from ganc.models.model import Model
from ganc.models.style import StyleGenerator
from ganc.models.stylegan2_discriminator import Discriminator
from ganc.ops.conv2d import conv2d, conv_transpose2d
from ganc.ops.modulated_conv2d import modulated_conv2d
from ganc.perceptual.distance import PerceptualDistance, load_perceptual
from ganc.progress import ignore
from ganc.scoring.precision import arithmetic

CYCLE = 16
"""Steps after which every lazy regulariser came as often as it should."""
CHECKED_STEPS = 4
TOLERANCE = 1e-3
PUBLISHED, GROUPED = "published", "published, grouped"
TUNED = "ganc bf16 channels_last, cuDNN tuned"
GRAPHS = "ganc bf16 channels_last, CUDA graphs"
VARIANTS: dict[str, dict[str, Any]] = {
    PUBLISHED: {"precision": "fp32"},
    GROUPED: {"precision": "fp32"},
    "ganc fp32": {"precision": "fp32"},
    "ganc fp32 channels_last": {"precision": "fp32", "channels_last": True},
    "ganc bf16": {"precision": "bf16"},
    "ganc bf16 channels_last": {"precision": "bf16", "channels_last": True},
    TUNED: {"precision": "bf16", "channels_last": True},
    GRAPHS: {"precision": "bf16", "channels_last": True, "cuda_graphs": True},
    "ganc bf16, CUDA graphs": {"precision": "bf16", "cuda_graphs": True},
    "ganc tf32 channels_last, CUDA graphs": {
        "precision": "tf32", "channels_last": True, "cuda_graphs": True,
    },
    "ganc bf16 compile": {"precision": "bf16", "compiles": True},
    "ganc bf16 channels_last compile": {
        "precision": "bf16", "channels_last": True, "compiles": True,
    },
}  # fmt: skip
CHECKED = (PUBLISHED, "ganc fp32")
DEFAULTS = {
    "cpu": [PUBLISHED, "ganc fp32", "ganc fp32 channels_last"],
    "cuda": [name for name in VARIANTS if name != "ganc fp32 channels_last"],
}
BRIEF = [PUBLISHED, GRAPHS, "ganc bf16 channels_last", "ganc bf16, CUDA graphs", GROUPED]
BRIEF_WARM_UP = 2  # the first step runs every phase
BRIEF_CHECKED_STEPS = 2


class PublishedLoop:
    """The plain side."""

    def __init__(self, trainer: StyleTrainer) -> None:
        """Take over networks, recipe and random numbers of a trainer that is not stepped itself."""
        self.source, self.recipe = trainer, trainer.recipe
        self.g, self.d = trainer.generator, trainer.discriminator
        self.ema = style_generator(trainer.ema)
        self.teacher = style_generator(trainer.teacher)
        self.perceptual = trainer.perceptual
        self.mean_path_length = torch.zeros([], device=trainer.device)
        self.g_optim = self._adam(self.g, self.recipe.pl_interval)
        self.d_optim = self._adam(self.d, self.recipe.r1_interval)

    def _adam(self, network: nn.Module, interval: int) -> torch.optim.Adam:
        ratio, recipe = interval / (interval + 1), self.recipe
        betas = (recipe.beta1**ratio, recipe.beta2**ratio)
        return torch.optim.Adam(network.parameters(), lr=recipe.lr * ratio, betas=betas)

    def draw(self, step: int) -> dict[str, Any]:
        """Return a step's random numbers."""
        source = self.source
        pixels = source.draws.normal("distill.pixels", step, 3 * self.g.img_resolution**2)
        return {
            **{name: source._latents(name, step, None) for name in ("d", "g", "pl")},
            "offset": source._offset(step),
            "pixels": pixels,
        }

    def step(self, step: int, real: Tensor, drawn: dict[str, Any]) -> dict[str, float]:
        """Train both networks and read every loss."""
        recipe, found, phase = self.recipe, dict[str, Tensor](), self.source.phase
        with phase("d_main"):
            found |= self.train_d(real, drawn["d"])
        if step % recipe.r1_interval == 0:
            with phase("d_r1"):
                found |= self.regularise_d(real)
        with phase("g_main"):
            found |= self.train_g(drawn["g"], drawn["offset"])
        if step % recipe.pl_interval == 0:
            with phase("g_pl"):
                found |= self.regularise_g(drawn["pl"], drawn["pixels"])
        with phase("ema"):
            self.accumulate(ema_beta((step + 1) * recipe.batch, recipe))
        return {name: loss.mean().item() for name, loss in found.items()}

    def train_d(self, real: Tensor, latents: MixedLatents) -> dict[str, Tensor]:
        _require(self.g, False)
        _require(self.d, True)
        fake, _ = self.g.synthesis.run(_styles(self.g, latents), noise=latents.noise)
        fake_pred = self.d(fake)
        real_pred = self.d(real)
        loss = F.softplus(-real_pred).mean() + F.softplus(fake_pred).mean()
        self.d.zero_grad()
        loss.backward()
        self.d_optim.step()
        return {"d_loss": loss}

    def regularise_d(self, real: Tensor) -> dict[str, Tensor]:
        real = real.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.d(real).sum(), real, create_graph=True)
        penalty = gradient.pow(2).reshape(len(real), -1).sum(1).mean()
        self.d.zero_grad()
        (self.recipe.r1_gamma / 2 * penalty * self.recipe.r1_interval).backward()
        self.d_optim.step()
        return {"r1": penalty}

    def train_g(self, latents: MixedLatents, offset: Tensor) -> dict[str, Tensor]:
        _require(self.g, True)
        _require(self.d, False)
        recipe = self.recipe
        image, pairs = self._both(self.g, latents, offset)
        adversarial = F.softplus(-self.d(image)).mean()
        target, target_pairs = self._both(self.teacher, latents, offset)
        target = target.detach().requires_grad_(True)  # the published loop asks for it, and pays
        pixel = (image - target).abs().mean()
        direction = torch.stack(
            [_divergence(mine, theirs) for mine, theirs in zip(pairs, target_pairs, strict=True)]
        ).sum()
        total = adversarial + recipe.l1_weight * pixel + recipe.latent_direction_weight * direction
        found = {"g_adversarial": adversarial, "pixel_l1": pixel, "latent_direction": direction}
        if self.perceptual is not None:
            found["perceptual"] = self.perceptual(image, target).mean()
            total = total + recipe.perceptual_weight * found["perceptual"]
        self.g.zero_grad()
        total.backward()
        self.g_optim.step()
        return {"g_loss": total, **found}

    def _both(
        self, network: StyleGenerator, latents: MixedLatents, offset: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Make the image of w, and the features of w and of w + offset, one after the other."""
        ws = _styles(network, latents)
        image, plain = network.synthesis.run(ws, noise=latents.noise)
        _, moved = network.synthesis.run(ws + offset[:, None], noise=latents.noise)
        return image, [(plain[block], moved[block]) for block in self.source.blocks]

    def regularise_g(self, latents: MixedLatents, pixels: Tensor) -> dict[str, Tensor]:
        recipe = self.recipe
        latents = latents.head(max(1, recipe.batch // recipe.pl_batch_shrink))
        ws = _styles(self.g, latents)
        image, _ = self.g.synthesis.run(ws, noise=latents.noise)
        lengths = path_lengths(image, ws, pixels[: len(image)].reshape(image.shape))
        mean = self.mean_path_length + recipe.pl_decay * (
            lengths.mean().detach() - self.mean_path_length
        )
        penalty = (lengths - mean).pow(2).mean()
        self.mean_path_length = mean.detach()
        self.g.zero_grad()
        (recipe.pl_weight * recipe.pl_interval * penalty).backward()
        self.g_optim.step()
        return {"path_length": penalty, "path_length_mean": self.mean_path_length}

    def accumulate(self, decay: float) -> None:
        own = dict(self.g.named_parameters())
        for name, average in self.ema.named_parameters():
            average.data.mul_(decay).add_(own[name].data, alpha=1 - decay)


def _require(network: nn.Module, flag: bool) -> None:
    for parameter in network.parameters():
        parameter.requires_grad = flag


def _styles(network: StyleGenerator, latents: MixedLatents) -> Tensor:
    """Map both latents, each in a pass of its own, and mix them."""
    first, second = (network.mapping(z) for z in latents.z.unbind(dim=1))
    layer = torch.arange(network.num_ws, device=first.device)
    return torch.where((layer < latents.cut)[:, :, None], first, second)


def _divergence(mine: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Tensor:
    own, target = (
        F.normalize(plain.flatten(1), dim=1) @ F.normalize(moved.flatten(1), dim=1).t()
        for plain, moved in (mine, theirs)
    )
    return F.kl_div(own.log_softmax(1), target.softmax(1), reduction="batchmean")


@functools.cache
def networks(family: str, resolution: int, channel_max: int, round_to: int) -> tuple[Model, Model]:
    """Return a teacher and a student of a tenth of its MACs; whoever trains them copies them.

    StyleGAN2 at 32 px is the embedded teacher; else the family's usual widths with random weights,
    no layer wider than ``channel_max``.
    """
    if family == "stylegan2" and resolution == 32:
        with resources.as_file(resources.files("ganc.showcase")) as carried:
            teacher = ganc.load(carried / "faces32.safetensors")
    else:
        torch.manual_seed(0)
        teacher = FAMILIES[family](resolution, channel_max)
    scores = ganc.score(teacher, "l1-out")
    return teacher, ganc.prune(teacher, scores, prune_ratio=0.7, round_to=round_to)


def _stylegan2(resolution: int, channel_max: int) -> Model:
    return Model(
        stylegan2.Generator(512, 0, 512, resolution, 3, channel_max=channel_max),
        Discriminator(0, resolution, 3, channel_max=channel_max),
    )


def _stylegan3(resolution: int, channel_max: int) -> Model:
    """Return StyleGAN3-T with the channels that its authors advise for a size."""
    widths = {"channel_base": 32768 if resolution > 256 else 16384, "channel_max": channel_max}
    return Model(
        stylegan3.Generator(512, 0, 512, resolution, 3, mapping_kwargs={"num_layers": 2}, **widths),
        Discriminator(0, resolution, 3, **widths),
    )


FAMILIES: dict[str, Callable[[int, int], Model]] = {
    "stylegan2": _stylegan2,
    "stylegan3": _stylegan3,
}


@functools.cache
def perceptual_network(name: str, device: torch.device) -> Distance | None:
    """Return a perceptual distance; "vgg-random" costs what LPIPS does and needs no download."""
    if name == "none":
        return None
    if name != "vgg-random":
        return load_perceptual(name, device=device)
    torch.manual_seed(1)
    widths = (64, 128, 256, 512, 512)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchvision: `pretrained` is deprecated
        trunk = lpips.pretrained_networks.vgg16(pretrained=False)
    return PerceptualDistance(
        name, sha256="", stages=nn.Sequential(lpips.ScalingLayer(), trunk),
        channel_weights=[torch.full((width,), 1 / width) for width in widths],
        resolution=None, smallest_side=16,
    ).to(device)  # fmt: skip


def make_trainer(arguments: argparse.Namespace, execution: Execution) -> StyleTrainer:
    """Return a trainer at step 0."""
    recipe = make_recipe(arguments)
    teacher, student = networks(
        arguments.family, arguments.resolution, arguments.channel_max, arguments.round_to
    )
    start = starting_model(student, teacher, 0, "pruned", ignore)
    perceptual = perceptual_network(arguments.perceptual, execution.device)
    frozen = execution.place(Model(copy.deepcopy(teacher.generator)))
    execution.compile_calls(frozen)
    return StyleTrainer(
        Parts(
            student=execution.place(start),
            ema=execution.place(Model(copy.deepcopy(start.generator))),
            teacher=frozen,
            recipe=recipe,
            draws=Draws(0, recipe.batch, execution.device),
            perceptual=perceptual and execution.compiled(perceptual),
            masks=None,
            execution=execution,
        )
    )


def make_recipe(arguments: argparse.Namespace) -> Recipe:
    """Return ``stylekd`` with the batch that was asked for."""
    numbers: dict[str, Any] = {"batch": arguments.batch, "augment": arguments.augment}
    if arguments.perceptual == "none":
        numbers["perceptual"] = "none"
    return resolve_recipe("stylekd", numbers)


class Side(NamedTuple):
    """A side of the comparison: what it may do before its clock starts, and a step."""

    prepare: Callable[[int], Any]
    step: Callable[[int, Any], dict[str, Any]]
    trainer: StyleTrainer
    is_ours: bool

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of its steps: PyTorch's own switches on the plain side."""
        return self.trainer.execution.arithmetic() if self.is_ours else contextlib.nullcontext()


def make_side(arguments: argparse.Namespace, execution: Execution, name: str) -> Side:
    """Return a side at step 0."""
    trainer = make_trainer(arguments, execution)
    size = (arguments.batch, 3, arguments.resolution, arguments.resolution)
    real = torch.rand(size, generator=torch.Generator().manual_seed(2)).mul(2).sub(1)
    real = real.to(execution.device)
    if name not in (PUBLISHED, GROUPED):
        batch = RealBatch(real, None)
        return Side(lambda _: None, lambda step, _: trainer.step(step, batch), trainer, True)
    loop = PublishedLoop(trainer)
    return Side(loop.draw, lambda step, drawn: loop.step(step, real, drawn), trainer, False)


def execution_of(name: str, device: torch.device) -> Execution:
    """Return how a variant computes; a CPU, where that is rehearsed, has no graphs."""
    how = VARIANTS[name]
    return Execution(device, **(how | {"cuda_graphs": False} if device.type == "cpu" else how))


@contextlib.contextmanager
def layers_of(name: str) -> Iterator[None]:
    """Run layers as a variant has them; cuDNN "tuned" measures which of its kernels is fastest."""
    tuned = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = name == TUNED
    grouped = functools.partial(modulated_conv2d, impl="grouped")
    try:
        with contextlib.ExitStack() as stack:
            if name in (PUBLISHED, GROUPED):
                stack.enter_context(profiling.replaced(conv2d, F.conv2d))
                stack.enter_context(profiling.replaced(conv_transpose2d, F.conv_transpose2d))
            if name == GROUPED:
                stack.enter_context(profiling.replaced(modulated_conv2d, grouped))
            yield
    finally:
        torch.backends.cudnn.benchmark = tuned


def first_losses(arguments: argparse.Namespace, device: torch.device, name: str) -> list[Any]:
    """Return the losses of the first steps, in exact float32."""
    with arithmetic("fp32"):
        side = make_side(arguments, Execution(device, "fp32"), name)
        series = [side.step(number, side.prepare(number)) for number in range(arguments.checked)]
    return [
        {key: float(value) for key, value in losses.items() if "norm" not in key}
        for losses in series
    ]


def timed(side: Side, steps: int, device: torch.device) -> float:
    """Return the seconds of some steps; what a side prepares is over before its clock starts.

    On one thread of the CPU they are those that the process computed, whoever else wants the core.
    """
    is_alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if is_alone else time.perf_counter
    spent = 0.0
    for number in range(steps):
        drawn = side.prepare(number)
        if drawn is not None:
            _wait(device)
        start = clock()
        side.step(number, drawn)
        spent += clock() - start
    start = clock()
    _wait(device)
    return spent + clock() - start


def measure(arguments: argparse.Namespace, name: str) -> tuple[dict[str, Any], Side]:
    """Time one variant; return seconds per step and peak memory, and what ran.

    The peak is that of the GPU, or of the whole process so far.
    """
    device = torch.device(arguments.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with layers_of(name):
        began = time.perf_counter()
        side = make_side(arguments, execution_of(name, device), name)
        with side.arithmetic():
            made = time.perf_counter()
            for _ in range(2):  # a phase is recorded when it runs for the second time
                timed(side, arguments.warm_up, device)
            now = time.perf_counter()
            text = f"{name}: made in {made - began:.1f} s, warm after {now - made:.1f} s more"
            print(text, file=sys.stderr, flush=True)
            seconds = timed(side, arguments.steps, device) / arguments.steps
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "memory": memory}, side


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def largest_difference(
    theirs: list[dict[str, float]], ours: list[dict[str, float]]
) -> tuple[float, str]:
    """Return the largest relative difference between losses and its name.

    Tiny ones are compared as they are. Path length's penalty is the square of a difference of
    nearly equal numbers, so ten times that is granted to it.
    """
    return max(
        (abs(mine[name] - value) / max(abs(value), 1e-2) / (10 if name == "path_length" else 1),
         name)
        for plain, mine in zip(theirs, ours, strict=True)
        for name, value in plain.items()
    )  # fmt: skip


def profile(arguments: argparse.Namespace, name: str, found: dict[str, Any], side: Side) -> None:
    """Print and record where a variant's time goes, over a whole cycle of steps.

    The profiler slows the host down, so the time that the device idles is told by the step's time
    without it.
    """
    device, times = torch.device(arguments.device), PhaseTimes()
    trainer = side.trainer
    with layers_of(name), side.arithmetic():
        plain = trainer.execution
        trainer.execution = dataclasses.replace(plain, times=times)
        began = time.perf_counter()
        timed(side, arguments.steps, device)
        phases = times.to_json(time.perf_counter() - began)
        trainer.execution = plain
        costs = profiling.Costs(device, is_labelled=not trainer.execution.compiles)
        for step, count in kinds_of_steps(trainer.recipe, arguments.steps).items():
            drawn = side.prepare(step)
            _wait(device)
            costs.add(functools.partial(side.step, step, drawn), count / arguments.steps)
        waits = profiling.waits(lambda: side.step(0, drawn), device)
    busy = costs.total / 1e6 / found["seconds"]
    lines = [f"### {name}, {arguments.family}, {arguments.resolution} px", ""]
    lines += ["| phase | calls | ms per call | share |", "|---|---|---|---|"]
    lines += [
        f"| {phase} | {row['calls']} | {1000 * row['seconds_per_call']:.1f} | {row['share']:.1%} |"
        for phase, row in phases.items()
    ]
    lines += ["", f"A step: {1000 * found['seconds']:.1f} ms; its {costs.calls.total():.0f} kernels"
              f" take {costs.total / 1e3:.1f} ms, {busy:.0%} of it. Waits of the host in step 0:"
              f" {waits.total()} {dict(waits)}.", "", *costs.lines()]  # fmt: skip
    print("\n".join(lines), flush=True)
    figures.record(
        arguments.figures, "distill_step profile", variant=name, **setting(arguments),
        ms_per_step=1000 * found["seconds"], busy_share=busy, launches=costs.calls.total(),
        phases=phases, waits=dict(waits), **costs.figures(),
    )  # fmt: skip


def kinds_of_steps(recipe: Recipe, steps: int) -> dict[int, int]:
    """Return the first step of each kind (which phases it runs) → how many of them there are."""
    kinds = [(s % recipe.r1_interval == 0, s % recipe.pl_interval == 0) for s in range(steps)]
    return {kinds.index(kind): count for kind, count in Counter(kinds).items()}


def setting(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what figures were measured on, as JSON data."""
    named = (
        "family",
        "resolution",
        "round_to",
        "batch",
        "steps",
        "perceptual",
        "augment",
        "device",
    )
    return {name: getattr(arguments, name) for name in named} | {"machine": machine(arguments)}


def record(arguments: argparse.Namespace, name: str, found: dict[str, Any]) -> None:
    """Write down what was measured of a variant."""
    figures.record(
        arguments.figures, "distill_step", variant=name, **setting(arguments),
        ms_per_step=1000 * found["seconds"], peak_bytes=found["memory"],
    )  # fmt: skip


def run_variant(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """Measure a variant in a process of its own."""
    command = [sys.executable, __file__, "--variant", name]
    for option in (
        "family", "resolution", "channel_max", "round_to", "batch", "steps", "warm_up",
        "perceptual", "augment", "device", "threads", "checked",
    ):  # fmt: skip
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(arguments: argparse.Namespace, names: list[str]) -> str:
    """Run all variants in turns and return the table."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in names:
            results[name].append(run_variant(arguments, name))
            record(arguments, name, results[name][-1])
            print(f"round {number + 1}, {name}: {results[name][-1]['seconds']:.4f} s per step",
                  file=sys.stderr, flush=True)  # fmt: skip
    checked = ""
    if all(name in results for name in CHECKED):
        checked = check(arguments, [results[name][0]["losses"] for name in CHECKED])
    best = {name: min(found, key=lambda r: r["seconds"]) for name, found in results.items()}
    lines = [f"{headline(arguments)}{checked}.", "", *HEAD]
    lines += [row(name, found, best.get(PUBLISHED)) for name, found in best.items()]
    return "\n".join(lines) + "\n"


def in_one_process(arguments: argparse.Namespace, names: list[str]) -> None:
    """Measure variants one after the other, print each as it comes, and profile some."""
    device = torch.device(arguments.device)
    print(f"{headline(arguments)}.", "", *HEAD, sep="\n", flush=True)
    base: dict[str, Any] | None = None
    for name in names:
        found, side = measure(arguments, name)
        base = found if name == PUBLISHED else base
        record(arguments, name, found)
        print(row(name, found, base), flush=True)
        if name in arguments.profile:
            print(flush=True)
            profile(arguments, name, found, side)
        del side
        release(device)
    if PUBLISHED in names and arguments.checked:
        losses = []
        for name in CHECKED:
            losses.append(first_losses(arguments, device, name))
            release(device)
        print("\nChecked" + check(arguments, losses), flush=True)


def release(device: torch.device) -> None:
    """Give back what nobody holds any more, so that the next variant meets an empty device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def check(arguments: argparse.Namespace, losses: list[list[dict[str, float]]]) -> str:
    """Compare both sides' first losses; end the program where they differ."""
    difference, name = largest_difference(*losses)
    figures.record(
        arguments.figures, "distill_step losses", **setting(arguments),
        largest_difference=difference, checked_steps=arguments.checked,
    )  # fmt: skip
    if difference > TOLERANCE:
        raise SystemExit(f"{name} differs by {difference:.2g}, more than {TOLERANCE:g}")
    return (
        f"; largest relative difference of a loss in the first {arguments.checked} steps"
        f" {difference:.1e}"
    )


HEAD = ("| step | ms per step | against published | peak memory |", "|---|---|---|---|")


def row(name: str, found: dict[str, Any], base: dict[str, Any] | None) -> str:
    """Return a variant's row of the table."""
    ratio = "–" if base is None else f"{base['seconds'] / found['seconds']:.2f}x"
    return (
        f"| {name} | {1000 * found['seconds']:.1f} | {ratio} | {found['memory'] / 2**30:.2f} GiB |"
    )


def headline(arguments: argparse.Namespace) -> str:
    """Say what is measured, and where."""
    return (
        f"{arguments.family}, {arguments.resolution} px, batch {arguments.batch}, `stylekd` with"
        f" `{arguments.perceptual}`, mean of {arguments.steps} steps, best of {arguments.rounds}"
        f" rounds, {machine(arguments)}"
    )


def machine(arguments: argparse.Namespace) -> str:
    """Name what the numbers were measured on."""
    if torch.device(arguments.device).type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{platform.machine()}, {arguments.threads} thread(s), torch {torch.__version__}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=FAMILIES, default="stylegan2")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--channel-max", type=int, default=512, help="of the widest layer")
    parser.add_argument("--round-to", type=int, default=1, help="multiple of the student's widths")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=CYCLE, help=f"a multiple of {CYCLE}")
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--checked", type=int, default=CHECKED_STEPS, help="steps of same losses")
    parser.add_argument("--perceptual", default="vgg-random")
    parser.add_argument("--augment", choices=["none", "ada"], default="none", help="ganc's steps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS)
    parser.add_argument("--brief", action="store_true", help="few variants, one process, one round")
    parser.add_argument(
        "--profile", nargs="+", choices=VARIANTS, default=[],
        help="where these spend their time; with --brief, among the rows",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="where to write the table as well")
    figures.add_option(parser)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.brief or arguments.profile:
        arguments.rounds, arguments.warm_up = 1, BRIEF_WARM_UP
        arguments.checked = min(arguments.checked, BRIEF_CHECKED_STEPS)
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.variant:
        name = arguments.variant
        is_checked = name in CHECKED and arguments.checked
        losses = first_losses(arguments, torch.device(arguments.device), name) if is_checked else []
        found, _ = measure(arguments, name)
        print(json.dumps({**found, "losses": losses}))
    elif arguments.brief:
        in_one_process(arguments, arguments.variants or BRIEF)
    elif arguments.profile:
        in_one_process(arguments, arguments.profile)
    else:
        names = arguments.variants or DEFAULTS[torch.device(arguments.device).type]
        table = compare(arguments, names)
        print(table, end="")
        if arguments.output is not None:
            arguments.output.write_text(table)


if __name__ == "__main__":
    main()
