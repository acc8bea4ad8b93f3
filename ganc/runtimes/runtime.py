"""What every runtime is: a program goes in, something that runs it comes out.

A precision is a name in ``Runtime.precisions``; what a runtime then really computes in is part of
``Conditions``.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from ganc.devices import device_name
from ganc.errors import unknown_name
from ganc.runtimes.program import NamedInputs, Program, Runner

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Conditions:
    """How something was run: without it a latency means nothing.

    Attributes:
        runtime: Name and version, and what of the runtime computes.
        precision: What it computes in.
        threads: How many it was given.
        processor: The processor's or the GPU's name.
    """

    runtime: str
    precision: str
    threads: int
    processor: str


@dataclass(frozen=True)
class Executable:
    """A program in a runtime.

    Attributes:
        run: From inputs on ``device`` to what the program returns, there too; no gradient.
        conditions: How it is run.
        device: Where it runs.
        bind: From inputs to a call that computes them again and again, without copies of what goes
            in and new memory for what comes out; None where ``run`` makes neither.
    """

    run: Runner
    conditions: Conditions
    device: torch.device = field(default=CPU)
    bind: Callable[[NamedInputs], Callable[[], object]] | None = None

    def repeated(self, inputs: NamedInputs) -> Callable[[], object]:
        """Return a call that computes and returns nothing of use, for the time that it takes."""
        return partial(self.run, inputs) if self.bind is None else self.bind(inputs)


@dataclass(frozen=True)
class Quantised:
    """How many layers a file computes in 8 bits, and how many that could be stay in float."""

    int8: int
    float: int


class Runtime(ABC):
    """A way to run programs.

    Attributes:
        precisions: What it can be asked for, the default first.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32",)

    @abstractmethod
    def title(self) -> str:
        """Return name and version, and what of the runtime computes."""

    def computes_in(self, dtype: str) -> str:
        """Return what a program of a precision is computed in on this processor."""
        return dtype

    def properties(self, dtype: str) -> dict[str, str]:
        """Return what a file cannot carry: properties to set when it is loaded, for it to be
        computed as it is here."""
        return {}

    def conditions(self, dtype: str = "fp32", device: torch.device = CPU) -> Conditions:
        """Say how a program would be run now; all runtimes get as many threads as PyTorch has."""
        threads, processor = torch.get_num_threads(), device_name(device)
        return Conditions(self.title(), self.computes_in(dtype), threads, processor)

    def check(self, dtype: str = "fp32") -> None:
        """Check what can be checked before any work.

        Raises:
            UsageError: ``dtype`` is none of ``precisions``.
            MissingDependencyError: A package is missing, or too old.
            InputError: The processor lacks the precision.
        """
        if dtype not in self.precisions:
            raise unknown_name("--dtype", dtype, self.precisions)

    @abstractmethod
    def prepare(
        self, program: Program, dtype: str = "fp32", device: torch.device | None = None
    ) -> Executable:
        """Bring a program into the runtime.

        Args:
            program: Stays as it is.
            dtype: One of ``precisions``.
            device: Where to run a copy of it; None is where it lies. PyTorch alone has the choice,
                all others run on the CPU.
        Raises:
            ComputationError: The runtime cannot express the program.
        """

    def prepare_each(
        self,
        programs: Sequence[Program],
        dtype: str = "fp32",
        device: torch.device | None = None,
    ) -> list[Executable]:
        """Bring several programs into the runtime; see ``prepare``."""
        return [self.prepare(program, dtype, device) for program in programs]


class FileRuntime(Runtime):
    """A runtime that takes files, on the CPU.

    A file is written in float32; files of lower precision are made from that one.

    Attributes:
        suffix: How the name of its files ends.
    """

    suffix: ClassVar[str]

    @abstractmethod
    def write(self, program: Program, path: Path, metadata: Mapping[str, str]) -> None:
        """Write a program in float32.

        Raises:
            ComputationError: The format cannot express the program.
            InputError: The format cannot hold it.
        """

    @abstractmethod
    def reduce(self, program: Program, full: Path, path: Path, dtype: str) -> Quantised | None:
        """Make a file of lower precision of the float32 file; say what int8 computes in 8 bits."""

    @abstractmethod
    def open(self, path: Path, dtype: str = "fp32") -> Executable:
        """Load a file.

        Args:
            dtype: What it was written for.
        Raises:
            ComputationError: The runtime refuses it.
        """

    def write_each(self, programs: Sequence[Program], paths: Sequence[Path]) -> None:
        """Write several programs, in less time than one by one where the format allows it."""
        for program, path in zip(programs, paths, strict=True):
            self.write(program, path, {})

    def prepare(
        self, program: Program, dtype: str = "fp32", device: torch.device | None = None
    ) -> Executable:
        with tempfile.TemporaryDirectory() as folder:
            return self.open(self.make(program, Path(folder), dtype), dtype)

    def prepare_each(
        self,
        programs: Sequence[Program],
        dtype: str = "fp32",
        device: torch.device | None = None,
    ) -> list[Executable]:
        with tempfile.TemporaryDirectory() as folder:
            fulls = [Path(folder) / f"{i}-fp32{self.suffix}" for i in range(len(programs))]
            self.write_each(programs, fulls)
            return [
                self.open(self._lower(program, full, dtype), dtype)
                for program, full in zip(programs, fulls, strict=True)
            ]

    def make(self, program: Program, folder: Path, dtype: str) -> Path:
        """Write a program for a precision into a folder, beside float32; return its file."""
        full = folder / f"fp32{self.suffix}"
        self.write(program, full, {})
        return self._lower(program, full, dtype)

    def _lower(self, program: Program, full: Path, dtype: str) -> Path:
        """Return the file of a precision, made beside the float32 file."""
        if dtype == "fp32":
            return full
        path = full.with_name(full.name.replace("fp32", dtype))
        self.reduce(program, full, path, dtype)
        return path
