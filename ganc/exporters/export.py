"""Write a model's generator as a deployable file, and prove that the file gives the same images."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from ganc.errors import ComputationError, unknown_name
from ganc.exporters.graph import Graph, Run, build_graph
from ganc.exporters.layouts import NVIDIA, ROSINALITY
from ganc.exporters.onnx import ONNX
from ganc.exporters.pt2 import TORCH
from ganc.exporters.target import Job, Runtime, Settings, Target, Written
from ganc.files import atomic_write, check_output
from ganc.models.model import Model
from ganc.progress import Progress, silent

FORMATS: dict[str, Target] = {
    "onnx": ONNX,
    "torch": TORCH,
    "rosinality": ROSINALITY,
    "nvidia": NVIDIA,
}

TOLERANCE = 1e-3
"""Largest absolute difference to PyTorch on images of nominal range [-1, 1], float32."""

CHECKS = (range(1), range(1, 4), range(4, 9))
"""Samples of each comparison, so batches of 1, 3 and 5; the graph was traced at batch 2."""


@dataclass(frozen=True)
class ExportResult:
    """A file that was written and checked.

    Attributes:
        output: Its path.
        format, network, dtype: As asked for.
        inputs: Names of the tensors that the file takes.
        max_abs_error: Largest difference to PyTorch, over ``batches`` of fresh inputs.
        batches: The batch sizes compared.
        bytes: Size of the file.
        provider: What ran the file, as its runtime says after loading it.
        unfit_widths: Of the layouts of public code: group → (its width, what that code's rule for
            widths gives), where they differ; empty where that code loads the file strictly.
        notes: What the format could not hold, one sentence each.
    """

    output: str
    format: str
    network: str
    inputs: tuple[str, ...]
    dtype: str
    max_abs_error: float
    batches: tuple[int, ...]
    bytes: int
    provider: str
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
        format: A name in ``FORMATS``: "onnx", "torch" (``.pt2``), or a checkpoint of plain tensors
            for public StyleGAN code: "rosinality" or "nvidia" (``.pt``).
        inputs: What the file takes; None is the first that the generator has. StyleGANs: "z" (with
            labels "c" where the model is conditional, and the scalar "truncation_psi") or "ws".
            SN-GAN: "z". Translators: "x", images of the generator's resolution.
        network: "generator", or "generator_b" for a CycleGAN's other direction.
        dtype: Precision of the weights: "fp32".
        opset: ONNX operator set; None takes 18.
        force: Overwrite a file that exists.
    Returns:
        Path, size and the largest difference found. Noise is the stored constants; the batch may
        have any size.
    Raises:
        UsageError: A name or number is not known.
        InputError: The model holds no such generator, the file exists, or a package is missing.
        ComputationError: The format cannot express the model, or the file gives other images;
            nothing is left behind.
    """
    settings = Settings(format, inputs, dtype, opset, network)
    target = resolve(settings)
    path = Path(path)
    check_output(path, force=force)
    graph = build_graph(model, inputs, network)
    steps = 1 + len(CHECKS)
    with atomic_write(path, force=force) as temporary:
        progress("exporting", 0, steps)
        written, runtime = _write_and_open(target, Job(model, graph, settings), temporary)
        progress("exporting", 1, steps)
        error = 0.0
        for done, indices in enumerate(CHECKS, start=2):
            error = max(error, compare(graph, runtime.run, indices))
            progress("exporting", done, steps)
        size = temporary.stat().st_size
    return ExportResult(
        output=str(path),
        format=format,
        network=network,
        inputs=tuple(graph.inputs),
        dtype=dtype,
        max_abs_error=error,
        batches=tuple(map(len, CHECKS)),
        bytes=size,
        provider=runtime.provider,
        unfit_widths=dict(written.unfit_widths),
        notes=written.notes,
    )


def _write_and_open(target: Target, job: Job, path: Path) -> tuple[Written, Runtime]:
    # Torch's exporters warn about their own internals. Nothing is lost with it: what they could get
    # wrong is found when the file is compared with PyTorch.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return target.write(job, path), target.open(path)


def resolve(settings: Settings) -> Target:
    """Return the format's target, after checking all that can be checked without a model.

    Raises:
        UsageError: A name is not known, or an option does not go with the format.
        MissingDependencyError: A package is not installed.
    """
    if settings.format not in FORMATS:
        raise unknown_name("--format", settings.format, FORMATS)
    target = FORMATS[settings.format]
    if settings.dtype not in target.dtypes:
        raise unknown_name("--dtype", settings.dtype, target.dtypes)
    target.check(settings)
    return target


@torch.no_grad()
def compare(graph: Graph, run: Run, indices: range) -> float:
    """Return the largest absolute difference between a file and PyTorch on some samples.

    Raises:
        ComputationError: It is above ``TOLERANCE``, not finite, or the images have another shape.
    """
    fresh, batch = graph.draw(indices), len(indices)
    images, expected = run(fresh), graph.reference(fresh)
    if images.shape != expected.shape:
        raise ComputationError(
            f"the exported file gives images {list(images.shape)} at batch {batch},"
            f" PyTorch {list(expected.shape)}"
        )
    error = (images - expected).abs().max().item()
    if not error <= TOLERANCE:  # NaN is not, either
        raise ComputationError(
            f"the exported file differs from PyTorch by {error:.3g} at batch {batch}, allowed is"
            f" {TOLERANCE}; it was removed"
        )
    return error
