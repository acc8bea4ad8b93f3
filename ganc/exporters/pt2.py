"""``torch``: a ``.pt2`` archive of ``torch.export``, for Python, AOTInductor and ExecuTorch.

Loaded with ``torch.export.load(path).module()``, called with the inputs by keyword. The metadata is
in the archive's extra files.
"""

import io
from pathlib import Path

import torch
from torch import Tensor

from ganc.errors import UsageError
from ganc.exporters.format import ExportFormat, ExportSettings, Job, Written
from ganc.runtimes.program import NamedInputs
from ganc.runtimes.pytorch import PyTorch
from ganc.runtimes.runtime import Executable


def _check(settings: ExportSettings) -> None:
    if settings.opset is not None:
        raise UsageError("--opset goes with --format onnx, not torch", "leave --opset out")


def _write(job: Job, path: Path) -> Written:
    program = job.graph.trace()
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds paths of this machine
    # Into memory first: a path would have to end in .pt2, and a temporary file does not.
    archive = io.BytesIO()
    torch.export.save(program, archive, extra_files=job.metadata())
    path.write_bytes(archive.getbuffer())
    return Written()


def _open(path: Path, dtype: str) -> Executable:
    module = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def run(inputs: NamedInputs) -> Tensor:
        images: Tensor = module(**inputs)
        return images

    return Executable(run, PyTorch().conditions(dtype))


TORCH = ExportFormat(check=_check, write=_write, open=_open)
