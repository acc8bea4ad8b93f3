"""What every export format is made of."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ganc.errors import UsageError
from ganc.models.model import Model
from ganc.runtimes.graph import Graph, Input
from ganc.runtimes.runtime import Executable, Quantised
from ganc.version import __version__


@dataclass(frozen=True)
class ExportSettings:
    """How to export.

    Attributes:
        format: A name in ``ganc.exporters.export.FORMATS``.
        inputs: What the file takes, a name in ``ganc.runtimes.graph.GRAPHS``; None: the default.
        dtype: Precision of the weights, one of the format's.
        opset: ONNX operator set; None takes the format's own default.
        network: Which of the model's generators.
    """

    format: str
    inputs: str | None
    dtype: str
    opset: int | None
    network: str = "generator"


@dataclass(frozen=True)
class Job:
    """One export: the model, the graph made of its generator, the settings."""

    model: Model
    graph: Graph
    settings: ExportSettings

    def metadata(self) -> dict[str, str]:
        """Return what the file says about itself; everything but names and versions is JSON."""
        generator = self.graph.generator
        settings = {"format": self.settings.format, "network": self.settings.network,
                    "dtype": self.settings.dtype}  # fmt: skip
        inputs = {
            name: {"axes": _axes(described), "dtype": "float32", "meaning": described.meaning}
            for name, described in self.graph.inputs.items()
        }
        output = {
            "axes": ["batch", "channel", "height", "width"],
            "dtype": "float32",
            "range": [-1, 1],
            "meaning": "not clamped; as 8 bit: clamp(x * 127.5 + 128, 0, 255), truncated",
        }
        return {
            "ganc_version": __version__,
            "architecture": generator.architecture,
            "config": json.dumps(generator.config),
            "inputs": json.dumps(inputs),
            "output": json.dumps(output),
            "provenance": json.dumps(self.model.with_step("export", **settings)),
        }


def _axes(described: Input) -> list[str | int]:
    """Return an input's axes as metadata has them: a number, a name, or 4*name for multiples."""
    return [axis if isinstance(axis, int) else str(axis) for axis in described.axes]


class Written(NamedTuple):
    """What there is to say about a file beside its bytes.

    Attributes:
        unfit_widths: Group → (its width, what the public code's rule gives), where they differ.
        notes: What the format could not hold, one sentence each.
    """

    unfit_widths: Mapping[str, tuple[int, int]] = {}
    notes: tuple[str, ...] = ()


class ExportFormat(NamedTuple):
    """A file format.

    Attributes:
        check: Raises before any work where the settings do not fit or a package is missing.
        write: Writes the file in float32.
        open: Loads a file that was written for a precision, in the format's own runtime.
        dtypes: Precisions it can hold, the default first.
        reduce: Makes a file of the job's lower precision of the float32 file.
        properties: From a precision to what has to be set when a file is loaded.
        suffix: How the name of a file has to end; empty where any name will do.
        beside: Endings of the files that are written beside it.
    """

    check: Callable[[ExportSettings], None]
    write: Callable[[Job, Path], Written]
    open: Callable[[Path, str], Executable]
    dtypes: tuple[str, ...] = ("fp32",)
    reduce: Callable[[Job, Path, Path], Quantised | None] | None = None
    properties: Callable[[str], dict[str, str]] = lambda dtype: {}
    suffix: str = ""
    beside: tuple[str, ...] = ()

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return all files of one export, what is loaded last."""
        return (*(path.with_suffix(ending) for ending in self.beside), path)

    def check_name(self, output: str | Path) -> None:
        """Check what a file is to be called; - is stdout.

        Raises:
            UsageError: The runtime would not find it, or stdout is to be two files.
        """
        if self.beside and str(output) == "-":
            raise UsageError(
                f"-o - is one file, an export to {self.suffix} is {1 + len(self.beside)}",
                f"name a file: -o student{self.suffix}",
            )
        if self.suffix and Path(output).suffix != self.suffix:
            raise UsageError(
                f"-o {output}: the name has to end in {self.suffix}, its runtime goes by that",
                f"pass -o {Path(output).with_suffix(self.suffix)}",
            )
