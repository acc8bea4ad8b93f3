"""What do local densities add? The method ``density`` beside its own parts left out, at equal MACs.

Two tasks are made from a seed (``shape_data.py``) and their teachers trained once: ``paired``, a
pix2pix from label maps to striped shapes, and ``unpaired``, a CycleGAN between solid and striped
ones. Every arm prunes generator and discriminator to the same MACs, is measured, is fine-tuned for
as many steps with the same seed on the task's own losses, and is measured again.

    python benchmarks/density.py -o out --tasks paired --ratios 4 8 --seeds 0 1 2
    python benchmarks/density_table.py out/results.jsonl > table.md

The folder keeps teachers, neighbourhoods, scores, logs and one line per result in
``results.jsonl``; what is there is not computed again, so several processes can share the work.
"""

import argparse
import functools
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from shape_data import RESOLUTION, render, write
from torch import Tensor

import ganc
from ganc.data.grid import make_grid, to_picture
from ganc.distillation.evaluations import EvalRequest
from ganc.models import patchgan, resnet_translator
from ganc.models.model import Model
from ganc.perceptual.frechet import FeatureStats, frechet_distance
from ganc.progress import silent
from ganc.pruning.slicing import PrunePlan, apply_plan
from ganc.scores import Scores, top_channels
from ganc.scoring.density import neighbours, self_supervised
from ganc.scoring.density.gates import GatedNetwork
from ganc.scoring.density.neighbours import Neighbourhoods

DATA_SEED, TEACHER_SEED, DESCRIBER_SEED = 0, 0, 1
NEIGHBOURS = 8
DISCRIMINATOR_MACS = 0.5
RANDOM_DRAWS = 5
PICTURES = 6


@dataclass(frozen=True)
class Task:
    """One pair of domains and how its models are trained.

    Attributes:
        width, num_blocks: Of the generators.
        sides: Generator → the streams of its training and test inputs, its style and the truth's.
        folders: Folder of the training set → stream and style of its pictures.
        train, test: How many pictures a stream has.
        training: Recipe numbers of teacher and fine-tuning, beside those that follow.
        teacher, tuning: Steps and learning rate.
        steps: Of the agents.
    """

    width: int
    num_blocks: int
    sides: Mapping[str, tuple[str, str, str, str]]
    folders: Mapping[str, tuple[str, str]]
    train: int
    test: int
    training: Mapping[str, Any]
    teacher: tuple[int, float]
    tuning: tuple[int, float]
    steps: int

    def overrides(self, lr: float) -> dict[str, Any]:
        """Return the recipe numbers of a training: stripes have directions, nothing is mirrored."""
        return {"mirror": False, "lr": lr, **self.training}


TASKS = {
    "paired": Task(
        16, 3,
        {"generator": ("train", "test", "labels", "striped")},
        {"A": ("train", "labels"), "B": ("train", "striped")},
        512, 128, {"batch": 8}, (1500, 1e-3), (150, 5e-4), 250,
    ),
    "unpaired": Task(
        12, 2,
        {
            "generator": ("train-a", "test-a", "solid", "striped"),
            "generator_b": ("train-b", "test-b", "striped", "solid"),
        },
        {"trainA": ("train-a", "solid"), "trainB": ("train-b", "striped")},
        256, 128, {"batch": 4}, (1200, 5e-4), (100, 2e-4), 150,
    ),
}  # fmt: skip


def as_built(hoods: Neighbourhoods) -> Neighbourhoods:
    return hoods


def shuffled(hoods: Neighbourhoods) -> Neighbourhoods:
    """Give every centre the neighbours of another one."""
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(len(hoods.neighbours), generator=draw)
    return Neighbourhoods(hoods.neighbours[order], hoods.radii, hoods.features, hoods.identity)


def everyone(hoods: Neighbourhoods) -> Neighbourhoods:
    """Make all others everybody's neighbours: one game over the whole set."""
    count = len(hoods.neighbours)
    others = torch.arange(count).repeat(count, 1)[~torch.eye(count, dtype=torch.bool)]
    identity = {**hoods.identity, "neighbours": count - 1}
    return Neighbourhoods(others.view(count, -1), hoods.radii, hoods.features, identity)


class Search(NamedTuple):
    """An arm that learns gates: its settings beside those of all, and who its neighbours are."""

    settings: Mapping[str, Any]
    change: Callable[[Neighbourhoods], Neighbourhoods] = as_built


SEARCHES: dict[str, Search] = {
    "density": Search({}),
    "global": Search({"condition": "batch", "centers": 1, "images": 16}, everyone),
    "shuffled": Search({}, shuffled),
    "no-feedback": Search({"feedback": "none"}),
    "generator-only": Search({"discriminator_macs": 1.0}),
    "few-centers": Search({"centers": 2, "images": 8}),
    "game-only": Search({"anchor_weight": 0.0, "adversarial_weight": 1.0}),
    "anchor-only": Search({"adversarial_weight": 0.0}),
}
RANDOM = tuple(f"random{i}" for i in range(RANDOM_DRAWS))
SCRATCH = "scratch"
ARMS = ("density", "random0", "l1-in", "global", "shuffled", "few-centers", "no-feedback",
        "generator-only", "game-only", "anchor-only", SCRATCH, *RANDOM[1:])  # fmt: skip


@dataclass(frozen=True, eq=False)
class View:
    """What one generator is measured on.

    Attributes:
        inputs, truth, taught: Test inputs, what they should become and what the teacher makes.
        describe: Images → descriptions of unit length.
        described: Those of ``taught``; ``near`` and ``radii``, their neighbours.
        real: Mean and covariance of the descriptions of ``truth``.
    """

    inputs: Tensor
    truth: Tensor
    taught: Tensor
    describe: Callable[[Tensor], Tensor]
    described: Tensor
    near: Tensor
    radii: Tensor
    real: FeatureStats


class Bench:
    """One task with everything that its arms share, made once in a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.task, self.folder = name, TASKS[name], folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self.folder / "data"
        if not self.data.exists():
            for part, (stream, style) in self.task.folders.items():
                write(self.data / part, render(style, DATA_SEED, stream, self.task.train))
        self.teacher = self._teacher()
        self.views = {side: self._view(side, *streams) for side, streams in self.task.sides.items()}
        self._hoods()

    def _teacher(self) -> Model:
        out = self.folder / "teacher"
        steps, lr = self.task.teacher
        if not (out / "student.safetensors").exists():
            began = time.perf_counter()
            ganc.distill(
                new_model(self.task), None, out, recipe="i2i", data=self.data, steps=steps,
                overrides=self.task.overrides(lr), seed=TEACHER_SEED, device="cpu",
                save_every=steps, sample_every=300,
            )  # fmt: skip
            print(f"{self.name}: teacher, {time.perf_counter() - began:.0f} s", flush=True)
        return ganc.load(out / "student.safetensors")

    def _view(self, side: str, train: str, test: str, style: str, goal: str) -> View:
        generator, count = getattr(self.teacher, side).eval(), self.task.test
        network = self._describer(side, translate(generator, self._inputs(style, train)))

        def describe(images: Tensor) -> Tensor:
            with torch.no_grad():
                return torch.nn.functional.normalize(network(images.clamp(-1, 1)), dim=1)

        inputs = render(style, DATA_SEED, test, count)
        truth, taught = render(goal, DATA_SEED, test, count), translate(generator, inputs)
        described = describe(taught)
        near, radii = neighbours.nearest(described, NEIGHBOURS)
        return View(inputs, truth, taught, describe, described, near, radii, stats(describe(truth)))

    def _inputs(self, style: str, stream: str) -> Tensor:
        return render(style, DATA_SEED, stream, self.task.train)

    def _describer(self, side: str, images: Tensor) -> torch.nn.Module:
        """Return an encoder that no arm has seen: as the method's own, from another seed."""
        path = self.folder / f"describer-{side}.safetensors"
        if path.exists():
            network = self_supervised.EncoderNetwork()
            network.load_state_dict(safetensors.torch.load_file(path))
            return network.requires_grad_(False).eval()
        found = self_supervised.train(
            lambda indices: images[indices.start : indices.stop].clamp(-1, 1), len(images),
            self_supervised.Training(), seed=DESCRIBER_SEED, device=torch.device("cpu"),
            progress=silent,
        )  # fmt: skip
        tensors = {name: tensor.contiguous() for name, tensor in found.state_dict().items()}
        safetensors.torch.save_file(tensors, path)
        return found

    def _hoods(self) -> None:
        """Let the method build its neighbourhoods, then write those of the other arms."""
        path = self.hoods(as_built)
        if not path.exists():
            self.search(path, {"steps": 1, "speedup": 2.0}, seed=0, log=None)
        for change in (shuffled, everyone):
            if not self.hoods(change).exists():
                sides = {name: change(own) for name, own in neighbours.load(path).items()}
                neighbours.save(self.hoods(change), sides)

    def hoods(self, change: Callable[[Neighbourhoods], Neighbourhoods]) -> Path:
        return self.folder / f"neighbours-{change.__name__}.safetensors"

    def search(
        self, hoods: Path, settings: Mapping[str, Any], *, seed: int, log: Path | None
    ) -> Scores:
        """Run the method as it is shipped but for its length."""
        common = {
            "steps": self.task.steps, "centers": 16, "images": 1, "neighbours": NEIGHBOURS,
            "discriminator_macs": DISCRIMINATOR_MACS,
        }  # fmt: skip
        return ganc.score(
            self.teacher, "density", data=self.data, seed=seed, device="cpu", log=log,
            density={**common, **settings}, neighbourhoods=hoods,
        )  # fmt: skip

    def learned(self, arm: str, ratio: float, seed: int) -> tuple[Scores, Path]:
        """Return an arm's scores and the log of its search, both from the folder if they are."""
        stem = f"{arm}-{ratio:g}x-{seed}"
        path, log = self.folder / f"{stem}.scores.safetensors", self.folder / f"{stem}.log.jsonl"
        if not path.exists():
            log.unlink(missing_ok=True)
            own = SEARCHES[arm]
            settings = {"speedup": ratio, **own.settings}
            if own.change is everyone:
                settings["neighbours"] = self.task.train - 1
            self.search(self.hoods(own.change), settings, seed=seed, log=log).save(path)
        return Scores.load(path), log

    def pruned(self, arm: str, ratio: float, seed: int) -> tuple[Model, dict[str, Any]]:
        """Return an arm's model, and how its search went."""
        if arm in SEARCHES or arm == SCRATCH:
            scores, log = self.learned("density" if arm == SCRATCH else arm, ratio, seed)
            return ganc.prune(self.teacher, scores), {} if arm == SCRATCH else dynamics(log)
        method, draw = ("random", int(arm[-1])) if arm in RANDOM else (arm, 0)
        scores = ganc.score(
            self.teacher, method, seed=RANDOM_DRAWS * seed + draw, discriminator=True
        )
        return apply_plan(self.teacher, uniform_plan(self.teacher, scores, ratio)), {}

    def tuned(self, student: Model, init: str, seed: int, curve: list[float]) -> Model:
        """Fine-tune on the task's own losses; the distance to the truth goes to ``curve``."""
        steps, lr = self.task.tuning

        def evaluate(request: EvalRequest) -> dict[str, float]:
            curve.append(self.measure(request.student)["l1_truth"])
            return {"l1_truth": curve[-1]}

        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            ganc.distill(
                student, self.teacher, run, init=init, recipe="i2i", data=self.data, steps=steps,
                overrides=self.task.overrides(lr), seed=seed, device="cpu", save_every=steps,
                evaluate=evaluate, eval_every=25,
            )  # fmt: skip
            return ganc.load(run / "student.safetensors")

    def measure(self, model: Model) -> dict[str, float]:
        """Measure every generator on its test inputs; return the means over them."""
        found = [
            compare(view, translate(getattr(model, side).eval(), view.inputs))
            for side, view in self.views.items()
        ]
        return {name: statistics.fmean(f[name] for f in found) for name in found[0]}

    def run(self, arm: str, ratio: float, seed: int, *, is_tuned: bool) -> dict[str, Any]:
        """Return the result of an arm, JSON data."""
        began = time.perf_counter()
        student, search = self.pruned(arm, ratio, seed)
        searched = time.perf_counter()
        curve: list[float] = []
        init = "scratch" if arm == SCRATCH else "pruned"
        after = self.measure(self.tuned(student, init, seed, curve)) if is_tuned else None
        return {
            "task": self.name, "ratio": ratio, "arm": arm, "seed": seed,
            "macs": student.macs() / self.teacher.macs(),
            "discriminator_macs": student.discriminator.macs() / self.teacher.discriminator.macs(),
            "before": None if arm == SCRATCH else self.measure(student), "after": after,
            "curve": curve, "search": search, "widths": student.widths,
            "seconds": [round(searched - began), round(time.perf_counter() - searched)],
        }  # fmt: skip


def new_model(task: Task) -> Model:
    """Return a task's networks with seeded random weights."""
    torch.manual_seed(TEACHER_SEED)
    is_paired = len(task.sides) == 1
    networks: dict[str, Any] = {}
    for side in task.sides:
        networks[side] = resnet_translator.Generator(
            3, 3, img_resolution=RESOLUTION, num_blocks=task.num_blocks, base_width=task.width
        )
        networks[side.replace("generator", "discriminator")] = patchgan.Discriminator(
            6 if is_paired else 3, img_resolution=RESOLUTION, num_layers=2, norm="instance",
            base_width=task.width,
        )  # fmt: skip
    return Model(**networks)


@torch.no_grad()
def translate(generator: Any, inputs: Tensor) -> Tensor:
    return torch.cat([generator(part) for part in inputs.split(64)])


def stats(features: Tensor) -> FeatureStats:
    found = FeatureStats.empty(features.shape[1])
    found.update(features)
    return found


def compare(view: View, images: Tensor) -> dict[str, float]:
    """Return what an arm's images differ by, all of them lower is better but ``overlap``."""
    own = view.describe(images)
    near, radii = neighbours.nearest(own, NEIGHBOURS)
    shared = (near[:, :, None] == view.near[:, None, :]).any(dim=2).float().mean()
    members = torch.cat([torch.arange(len(own))[:, None], view.near], dim=1)
    theirs = view.described[members]
    shift = (own[members].mean(dim=1) - theirs.mean(dim=1)).square().sum(dim=1)
    return {
        "l1_teacher": (images - view.taught).abs().mean().item(),
        "l1_truth": (images - view.truth).abs().mean().item(),
        "fd": frechet_distance(stats(own), view.real),
        "radius": (radii / view.radii).log().abs().mean().item(),
        "overlap": shared.item(),
        "shift": (shift / theirs.var(dim=1).sum(dim=1)).median().item(),
    }


def uniform_plan(model: Model, scores: Scores, ratio: float) -> PrunePlan:
    """Keep the same share of every group, of generators and discriminators by budgets of their own.

    What rounding down leaves of a budget is given back, a channel to a group while it fits.
    """
    keep: dict[str, Sequence[int]] = {}
    for name, network in model.networks():
        is_judge = name.startswith("discriminator")
        target = network.macs() * (DISCRIMINATOR_MACS if is_judge else 1 / ratio)
        prefix = "" if name == "generator" else f"{name}."
        for group, width in uniform_widths(GatedNetwork(network), target).items():
            keep[prefix + group] = top_channels(scores[prefix + group], width)
    return PrunePlan(keep, {"method": scores.method})


def uniform_widths(network: GatedNetwork, target: float) -> dict[str, int]:
    whole = {group.name: group.width for group in network.groups}

    def at(share: float) -> dict[str, int]:
        return {name: max(1, int(share * width + 1e-9)) for name, width in whole.items()}

    shares = {k / width for width in whole.values() for k in range(width + 1)}
    best = max(share for share in shares if network.macs_at(at(share)) <= target)
    kept = at(best)
    for name in sorted(whole, key=lambda n: best * whole[n] - kept[n], reverse=True):
        wider = {**kept, name: min(kept[name] + 1, whole[name])}
        kept = wider if network.macs_at(wider) <= target else kept
    return kept


def dynamics(log: Path) -> dict[str, float]:
    """Summarise a search's steps: MAC ratios of the masks drawn at the end, and the game's gap.

    A gap is pinned where the discriminator's logits do not tell the sides apart (by less than 0.02)
    or its loss is next to nothing (below 0.05).
    """
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    last = max(line["step"] for line in lines) - 50
    late = [line for line in lines if line["step"] > last]
    gaps = [abs(line["d_real"] - line["d_fake"]) for line in lines if "d_real" in line]
    found = {"rho": statistics.median(line["generator_macs"] for line in late)}
    if "discriminator_macs" in lines[0]:
        found["rho_d"] = statistics.median(line["discriminator_macs"] for line in late)
    return found | {
        "gap_zero": statistics.fmean(gap < 0.02 for gap in gaps),
        "gap_full": statistics.fmean(line["d_loss"] < 0.05 for line in lines if "d_loss" in line),
        "gap_late": statistics.median(
            line["d_real"] - line["d_fake"] for line in late if "d_real" in line
        ),
    }


def draw(bench: Bench, arms: Sequence[str], ratio: float, seed: int, path: Path) -> None:
    """Draw test pictures: inputs, truth, the teacher's, then an arm in a row, not fine-tuned."""
    view = bench.views["generator"]
    rows = [view.inputs, view.truth, view.taught]
    for arm in arms:
        student, _ = bench.pruned(arm, ratio, seed)
        rows.append(translate(student.generator.eval(), view.inputs[:PICTURES]))
    grid = make_grid(torch.cat([row[:PICTURES] for row in rows]), columns=PICTURES)
    picture = to_picture(grid, zoom=2).quantize(256, kmeans=4)  # noise makes large files
    picture.save(path, optimize=True)


def done(folder: Path) -> list[dict[str, Any]]:
    """Return the results of a folder."""
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_done(folder: Path, *key: Any) -> bool:
    return any((r["task"], r["ratio"], r["arm"], r["seed"]) == key for r in done(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output-dir", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS], choices=TASKS)
    parser.add_argument("--ratios", nargs="+", type=float, default=[4, 8])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=[*ARMS], choices=ARMS)
    parser.add_argument("--before-only", action="store_true", help="do not fine-tune")
    parser.add_argument("--picture", type=Path, help="draw the arms of the first task instead")
    arguments = parser.parse_args()
    folder = arguments.output_dir
    bench = functools.cache(lambda name: Bench(name, folder))
    if arguments.picture is not None:
        first = (arguments.ratios[0], arguments.seeds[0], arguments.picture)
        draw(bench(arguments.tasks[0]), arguments.arms, *first)
        return
    wanted = itertools.product(arguments.tasks, arguments.ratios, arguments.seeds, arguments.arms)
    for name, ratio, seed, arm in wanted:
        if is_done(folder, name, ratio, arm, seed):
            continue
        result = bench(name).run(arm, ratio, seed, is_tuned=not arguments.before_only)
        with (folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(summary(result), flush=True)


def summary(result: Mapping[str, Any]) -> str:
    parts = (result["before"] or {}, result["after"] or {})
    names = dict.fromkeys(name for part in parts for name in part)
    shown = "  ".join(
        f"{name} {'→'.join(f'{part[name]:.3g}' for part in parts if part)}" for name in names
    )
    return (
        f"{result['task']} {result['ratio']:g}x {result['arm']:14s} seed {result['seed']}"
        f"  {shown}  {result['seconds']} s"
    )


if __name__ == "__main__":
    main()
