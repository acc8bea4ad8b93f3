"""``openvino``: OpenVINO's IR, an .xml with the graph and a .bin with the weights."""

from pathlib import Path

from ganc.errors import UsageError
from ganc.exporters.format import ExportFormat, ExportSettings, Job, Written
from ganc.runtimes.openvino import OpenVino
from ganc.runtimes.runtime import Quantised

_RUNTIME = OpenVino()


def _check(settings: ExportSettings) -> None:
    if settings.opset is not None:
        raise UsageError("--opset goes with --format onnx, not openvino", "leave --opset out")
    _RUNTIME.check(settings.dtype)


def _write(job: Job, path: Path) -> Written:
    _RUNTIME.write(job.graph, path, job.metadata())
    return Written()


def _reduce(job: Job, full: Path, path: Path) -> Quantised | None:
    return _RUNTIME.reduce(job.graph, full, path, job.settings.dtype)


OPENVINO = ExportFormat(
    _check,
    _write,
    _RUNTIME.open,
    _RUNTIME.precisions,
    _reduce,
    _RUNTIME.properties,
    suffix=_RUNTIME.suffix,
    beside=(".bin",),
)
