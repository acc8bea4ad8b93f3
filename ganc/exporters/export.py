"""Write a model's generator as a deployable file, and prove that the file gives the same images."""

import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ganc.errors import ComputationError, MissingDependencyError, UsageError, unknown_name
from ganc.exporters.format import ExportFormat, ExportSettings, Job, Written
from ganc.exporters.layouts import NVIDIA, ROSINALITY
from ganc.exporters.onnx import ONNX
from ganc.exporters.openvino import OPENVINO
from ganc.exporters.pt2 import TORCH
from ganc.files import check_output, write_together
from ganc.models.model import Model
from ganc.perceptual.channels import SEEN
from ganc.perceptual.distance import PerceptualDistance, load_perceptual
from ganc.progress import Progress, silent
from ganc.runtimes.graph import Graph, build_graph
from ganc.runtimes.measure import Timing, measure
from ganc.runtimes.program import NamedInputs, Runner
from ganc.runtimes.pytorch import PyTorch
from ganc.runtimes.runtime import Executable, Quantised
from ganc.runtimes.timing import WORTH

FORMATS: dict[str, ExportFormat] = {
    "onnx": ONNX,
    "openvino": OPENVINO,
    "torch": TORCH,
    "rosinality": ROSINALITY,
    "nvidia": NVIDIA,
}

TOLERANCE = 1e-3
"""Largest absolute difference to PyTorch on images of nominal range [-1, 1], float32."""

CHECKS = (range(1), range(1, 4), range(4, 9))
"""Samples of each comparison, so batches of 1, 3 and 5; the graph was traced at batch 2.

Translators are compared at two other sizes as well.
"""

PERCEPTUAL = "effnet-lite0"
"""The distance of lower precisions: the one that needs no download."""

_TIMED_RUNS, _TIMED_SEC = 20, 1.0


@dataclass(frozen=True)
class ExportResult:
    """A file that was written and checked.

    Attributes:
        output: Its path.
        format, network, dtype: As asked for.
        inputs: Names of the tensors that the file takes.
        max_abs_error: Largest difference to PyTorch in float32, over all fresh inputs.
        batches: The batch sizes compared, at the model's own resolution.
        bytes: Size of the file, of OpenVINO's two together.
        fp32_bytes: Size of the same file in float32, where ``dtype`` is another.
        latency: Of one image on the CPU: of the "file" in its runtime, of the same file in "fp32"
            where ``dtype`` is another, of "pytorch" in float32; each says how it was run.
        perceptual: "network" and mean "distance" to the float32 images, where ``dtype`` is another,
            the images are RGB and the network's package is installed.
        quantised: Of int8: how many convolutions are computed in it, and how many stay in float
            because the images would suffer.
        load_with: Properties that the runtime has to be given for the file to be computed as it was
            here, where the file cannot carry them.
        unfit_widths: Of the layouts of public code: group → (its width, what that code's rule for
            widths gives), where they differ; empty where that code loads the file strictly.
        notes: What the format could not hold, and whether a lower precision is slower here than
            float32, one sentence each.
    """

    output: str
    format: str
    network: str
    inputs: tuple[str, ...]
    dtype: str
    max_abs_error: float
    batches: tuple[int, ...]
    bytes: int
    fp32_bytes: int | None
    latency: dict[str, Timing]
    perceptual: dict[str, str | float] | None
    quantised: Quantised | None
    load_with: dict[str, str]
    unfit_widths: dict[str, tuple[int, int]]
    notes: tuple[str, ...]


def export(
    model: Model,
    path: str | Path,
    *,
    format: str = "onnx",
    inputs: str | None = None,
    network: str = "generator",
    dtype: str = "fp32",
    opset: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> ExportResult:
    """Write a deployable file, load it in its own runtime and compare it with PyTorch.

    Args:
        model: One of its generators is exported; it stays as it is, on its device.
        path: Where to.
        format: A name in ``FORMATS``: "onnx", "openvino" (``.xml``, with a ``.bin`` beside it),
            "torch" (``.pt2``), or a checkpoint of plain tensors for public StyleGAN code:
            "rosinality" or "nvidia" (``.pt``).
        inputs: What the file takes; None is the first that the generator has. StyleGANs: "z" (with
            labels "c" where the model is conditional, and the scalar "truncation_psi") or "ws".
            SN-GAN: "z". Translators: "x", images of any size that the generator takes.
        network: "generator", or "generator_b" for a CycleGAN's other direction.
        dtype: "fp32"; of ONNX also "fp16" and "int8", of OpenVINO those and "bf16". They report
            their error instead of being held to ``TOLERANCE``.
        opset: ONNX operator set; None takes 18.
        force: Overwrite a file that exists.
    Returns:
        Path, size, the largest difference found, latency. Noise is the stored constants; the batch
        may have any size.
    Raises:
        UsageError: A name or number is not known.
        InputError: The model holds no such generator, the file exists, a package is missing, or the
            processor lacks the precision.
        ComputationError: The format cannot express the model, or the file gives other images, or in
            lower precision none that are finite; nothing is left behind.
    """
    settings = ExportSettings(format, inputs, dtype, opset, network)
    form = resolve(settings)
    path = Path(path)
    form.check_name(path)
    for file in form.files(path):
        check_output(file, force=force)
    graph = build_graph(model, inputs, network)
    checks = [*map(graph.draw, CHECKS), *graph.other_sizes]
    steps = 2 + len(checks)
    with tempfile.TemporaryDirectory() as folder:
        progress("exporting", 0, steps)
        temporary = Path(folder) / f"file{form.suffix}"
        made = _make(form, Job(model, graph, settings), temporary)
        progress("exporting", 1, steps)
        comparison = Comparison(graph, dtype)
        for done, fresh in enumerate(checks, start=2):
            comparison.add(made.executable.run, fresh)
            progress("exporting", done, steps)
        size = _size(form, temporary)
        latency = made.latency | {"pytorch": _latency(graph, PyTorch().prepare(graph))}
        write_together(dict(zip(form.files(path), form.files(temporary), strict=True)), force=force)
        progress("exporting", steps, steps)
    return ExportResult(
        output=str(path),
        format=format,
        network=network,
        inputs=tuple(graph.inputs),
        dtype=dtype,
        max_abs_error=comparison.max_abs_error,
        batches=tuple(map(len, CHECKS)),
        bytes=size,
        fp32_bytes=made.fp32_bytes,
        latency=latency,
        perceptual=comparison.perceptual(),
        quantised=made.quantised,
        load_with=form.properties(dtype),
        unfit_widths=dict(made.written.unfit_widths),
        notes=(*made.written.notes, *_slower(dtype, latency)),
    )


class _Made(NamedTuple):
    """A file in its runtime, and how long it takes; of lower precision, fp32 as well."""

    written: Written
    executable: Executable
    latency: dict[str, Timing]
    fp32_bytes: int | None = None
    quantised: Quantised | None = None


def _make(form: ExportFormat, job: Job, path: Path) -> _Made:
    # Exporters and quantisers warn about their own internals. Nothing is lost with it: what they
    # could get wrong is found when the file is compared with PyTorch.
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        dtype = job.settings.dtype
        if dtype == "fp32" or form.reduce is None:
            written = form.write(job, path)
            executable = form.open(path, dtype)
            return _Made(written, executable, {"file": _latency(job.graph, executable)})
        full = Path(folder) / f"fp32{form.suffix}"
        written = form.write(job, full)
        quantised = form.reduce(job, full, path)
        executable = form.open(path, dtype)
        latency = {
            "file": _latency(job.graph, executable),
            "fp32": _latency(job.graph, form.open(full, "fp32")),
        }
        return _Made(written, executable, latency, _size(form, full), quantised)


def _size(form: ExportFormat, path: Path) -> int:
    return sum(file.stat().st_size for file in form.files(path))


def _slower(dtype: str, latency: Mapping[str, Timing]) -> tuple[str, ...]:
    """Say so where a lower precision takes longer on this machine than float32."""
    if "fp32" not in latency:
        return ()
    own, full = latency["file"].median_ms, latency["fp32"].median_ms
    if own <= WORTH * full:
        return ()
    return (f"{dtype} is slower than fp32 on this machine: {own:.3g} ms, not {full:.3g}",)


def _latency(graph: Graph, executable: Executable) -> Timing:
    """Time one image."""
    inputs = graph.draw(range(1))
    return measure(executable, inputs, max_runs=_TIMED_RUNS, enough_sec=_TIMED_SEC)


def resolve(settings: ExportSettings) -> ExportFormat:
    """Return the format, after checking all that can be checked without a model.

    Raises:
        UsageError: A name is not known, or an option does not go with the format.
        MissingDependencyError: A package is not installed.
    """
    if settings.format not in FORMATS:
        raise unknown_name("--format", settings.format, FORMATS)
    form = FORMATS[settings.format]
    if settings.dtype not in form.dtypes:
        holding = [name for name, other in FORMATS.items() if settings.dtype in other.dtypes]
        if not holding:
            raise unknown_name("--dtype", settings.dtype, form.dtypes)
        raise UsageError(
            f"--format {settings.format} has no --dtype {settings.dtype}, only"
            f" {', '.join(form.dtypes)}",
            f"pass --format {' or '.join(holding)}",
        )
    form.check(settings)
    return form


class Comparison:
    """A file beside PyTorch, one batch of samples after the other.

    Args:
        graph: What was exported.
        dtype: Precision of the file; only "fp32" is held to ``TOLERANCE``.
    Attributes:
        max_abs_error: Largest absolute difference so far.
    """

    def __init__(self, graph: Graph, dtype: str) -> None:
        self.graph = graph
        # In lower precision the difference is reported; what is not finite is no image, though.
        self.allowed = TOLERANCE if dtype == "fp32" else sys.float_info.max
        self.max_abs_error = 0.0
        self.distances: list[Tensor] = []
        is_seen = graph.generator.img_channels in SEEN
        self.network = _perceptual() if is_seen and dtype != "fp32" else None

    @torch.no_grad()
    def add(self, run: Runner, fresh: NamedInputs) -> None:
        """Compare some samples.

        Raises:
            ComputationError: The difference is above ``TOLERANCE``, in lower precision not finite,
                or the images have another shape.
        """
        images, expected = run(fresh), self.graph.reference(fresh)
        batch = len(expected)
        if images.shape != expected.shape:
            raise ComputationError(
                f"the exported file gives images {list(images.shape)} at batch {batch},"
                f" PyTorch {list(expected.shape)}"
            )
        error = (images - expected).abs().max().item()
        if not error <= self.allowed:  # NaN is not, either
            raise ComputationError(
                f"the exported file differs from PyTorch by {error:.3g} at batch {batch}, allowed"
                f" is {self.allowed:.3g}; it was removed"
            )
        self.max_abs_error = max(self.max_abs_error, error)
        if self.network is not None:
            self.distances.append(self.network(images.clamp(-1, 1), expected.clamp(-1, 1)))

    def perceptual(self) -> dict[str, str | float] | None:
        """Return the mean distance and whose it is; None where none was measured."""
        if self.network is None:
            return None
        return {"network": PERCEPTUAL, "distance": torch.cat(self.distances).mean().item()}


def _perceptual() -> PerceptualDistance | None:
    """Return the distance that needs no download, or None where its package is not installed."""
    try:
        return load_perceptual(PERCEPTUAL, offline=True)
    except MissingDependencyError:
        return None
