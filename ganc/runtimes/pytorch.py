"""PyTorch as it is, and through torch.compile; on the CPU and on CUDA."""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ganc.errors import InputError
from ganc.ops import layer_passes
from ganc.runtimes.precisions import PRECISIONS
from ganc.runtimes.program import NamedInputs, Program
from ganc.runtimes.runtime import CPU, Conditions, Executable, Runtime


class PyTorch(Runtime):
    """The module, run as it is; in bf16 under autocast."""

    precisions = PRECISIONS["torch"]

    def title(self) -> str:
        return f"PyTorch {torch.__version__}"

    def conditions(self, dtype: str = "fp32", device: torch.device = CPU) -> Conditions:
        found = super().conditions(dtype, device)
        if device.type == "cpu" and dtype == "fp32" and layer_passes.are_there():
            return replace(found, runtime=f"{found.runtime}, compiled passes")
        return found

    def prepare(
        self, program: Program, dtype: str = "fp32", device: torch.device | None = None
    ) -> Executable:
        module, where = _placed(program, device)
        return Executable(partial(_run, module, dtype), self.conditions(dtype, where), where)


class Compiled(Runtime):
    """The module through torch.compile, for each size of the inputs anew.

    Compiling is part of the first run, which raises InputError where there is no compiler or it
    does not manage.
    """

    precisions = PyTorch.precisions

    def title(self) -> str:
        return f"torch.compile, PyTorch {torch.__version__}"

    def prepare(
        self, program: Program, dtype: str = "fp32", device: torch.device | None = None
    ) -> Executable:
        module, where = _placed(program, device)
        compiled: Any = torch.compile(module, dynamic=False)

        def run(inputs: NamedInputs) -> Tensor:
            from torch._dynamo.exc import TorchDynamoException  # slow to import

            try:
                return _run(compiled, dtype, inputs)
            except TorchDynamoException as error:
                finding = str(error).strip().splitlines()[0]
                raise InputError(
                    f"torch.compile does not work on this machine: {finding}",
                    "install a C++ compiler (CPU) or Triton (CUDA), or use another runtime",
                ) from error

        return Executable(run, self.conditions(dtype, where), where)


def _placed(program: Program, device: torch.device | None) -> tuple[nn.Module, torch.device]:
    """Return the module, or a copy of it elsewhere, and where that is."""
    if device is None:
        return program.module.eval(), program.device
    return copy.deepcopy(program.module).to(device).eval(), device


@torch.no_grad()
def _run(module: nn.Module, dtype: str, inputs: NamedInputs) -> Tensor:
    kind = next(iter(inputs.values())).device.type
    with torch.autocast(kind, torch.bfloat16, enabled=dtype == "bf16"):
        result: Tensor = module(**inputs)
    return result.float()
