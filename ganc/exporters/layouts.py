"""``rosinality`` and ``nvidia``: checkpoints for the public StyleGAN code, as plain tensors.

A ``.pt`` that ``torch.load(path, weights_only=True)`` takes: state dicts under that code's names,
and under ``config`` a JSON text with the arguments to build each network from, the architecture,
our own config and the provenance. ganc's readers are the runtime of the check.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ganc.checkpoints import nvidia_tensors, rosinality_writer
from ganc.checkpoints.foreign import Layout
from ganc.checkpoints.store import load
from ganc.errors import UsageError
from ganc.exporters.format import ExportFormat, ExportSettings, Job, Written
from ganc.models.model import Model
from ganc.runtimes.program import NamedInputs
from ganc.runtimes.pytorch import PyTorch
from ganc.runtimes.runtime import Executable

ToLayout = Callable[[Model], Layout]


def _check(settings: ExportSettings) -> None:
    if settings.opset is not None:
        raise UsageError(f"--opset goes with --format onnx, not {settings.format}",
                         "leave --opset out")  # fmt: skip
    if settings.inputs not in (None, "z"):
        raise UsageError(
            f"--inputs {settings.inputs} goes with --format onnx and torch, not {settings.format}",
            "leave --inputs out: the file is a checkpoint, not a function",
        )


def _write(to_layout: ToLayout, job: Job, path: Path) -> Written:
    judge = job.model.discriminator
    exported = Model(
        generator=job.graph.generator,
        discriminator=None if judge is None else judge.copy_on("cpu").float(),
    )
    layout = to_layout(exported)
    about = job.metadata()
    config = {
        "ganc_version": about["ganc_version"],
        "architecture": exported.architecture,
        "arguments": layout.arguments,
        "config": exported.config,
        "provenance": json.loads(about["provenance"]),
    }
    torch.save({**layout.tree, "config": json.dumps(config)}, path)
    return Written(layout.unfit_widths, layout.notes)


def _open(path: Path, dtype: str) -> Executable:
    generator = load(path).generator

    @torch.no_grad()
    def run(inputs: NamedInputs) -> Tensor:
        psi = inputs["truncation_psi"].item()
        images: Tensor = generator(inputs["z"], inputs.get("c"), truncation_psi=psi)
        return images

    return Executable(run, PyTorch().conditions(dtype))


ROSINALITY = ExportFormat(
    check=_check,
    write=partial(_write, rosinality_writer.to_layout),
    open=_open,
)
NVIDIA = ExportFormat(check=_check, write=partial(_write, nvidia_tensors.to_layout), open=_open)
