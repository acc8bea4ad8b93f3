"""``onnx``: an ONNX file that any runtime can take, run by ONNX Runtime to check it.

Activations are scaled, not weights (the "shared" formulation of ``ops.modulated_conv2d``), so all
convolution weights and filters are constants of the file and the batch may have any size.
"""

from pathlib import Path

from ganc.errors import UsageError
from ganc.exporters.format import ExportFormat, ExportSettings, Job, Written
from ganc.runtimes.onnx import OPSETS, OnnxRuntime
from ganc.runtimes.runtime import Quantised


def _check(settings: ExportSettings) -> None:
    if settings.opset is not None and settings.opset not in OPSETS:
        raise UsageError(
            f"--opset {settings.opset} is outside {OPSETS[0]} to {OPSETS[-1]}",
            f"leave --opset out to get {OPSETS[0]}",
        )
    OnnxRuntime().check(settings.dtype)


def _write(job: Job, path: Path) -> Written:
    opset = OPSETS[0] if job.settings.opset is None else job.settings.opset
    OnnxRuntime(opset).write(job.graph, path, job.metadata())
    return Written()


def _reduce(job: Job, full: Path, path: Path) -> Quantised | None:
    return OnnxRuntime().reduce(job.graph, full, path, job.settings.dtype)


ONNX = ExportFormat(_check, _write, OnnxRuntime().open, OnnxRuntime.precisions, _reduce)
