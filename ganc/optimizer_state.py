"""The state of an optimiser by the names of its parameters, as it is saved and put back.

torch numbers the parameters; a name still says which one it is when others come or go.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Parameters = Mapping[str, nn.Parameter]
"""Name → parameter of the optimiser."""


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Parameters, separator: str = "."
) -> dict[str, Tensor]:
    """Return what an optimiser knows of some parameters: "const.step", "const.exp_avg", ….

    Args:
        optimizer: One whose state is tensors, such as Adam; a parameter without a step has none.
        separator: Between a parameter's name and what is known of it.
    Returns:
        The tensors themselves: the next step changes them.
    """
    return {
        f"{name}{separator}{field}": value
        for name, parameter in parameters.items()
        for field, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Parameters,
    tensors: Mapping[str, Tensor],
    separator: str = ".",
) -> None:
    """Put back copies of what ``optimizer_state`` returned; other tensors are left alone.

    Raises:
        ValueError: A tensor does not fit its parameter, or what Adam knows of one is incomplete.
    """
    is_fused = bool(optimizer.defaults.get("fused"))
    for key, value in tensors.items():
        name, _, field = key.rpartition(separator)
        if name not in parameters:
            continue
        parameter = parameters[name]
        if field == "step":  # counted on the device by a fused optimiser, else on the CPU
            own = torch.empty([], device=parameter.device if is_fused else "cpu")
        else:  # in the parameter's layout, as the optimiser made it: its kernel takes no other
            own = torch.empty_like(parameter)
        if field not in _ADAM or own.shape != value.shape:
            raise ValueError(f"{key} {list(value.shape)} is nothing that Adam knows of {name}")
        optimizer.state[parameter][field] = own.copy_(value)
    for name, parameter in parameters.items():
        known = optimizer.state.get(parameter, {})
        if known and set(known) != _ADAM:
            raise ValueError(f"the state of {name} is not whole: {', '.join(sorted(known))} alone")


_ADAM = {"step", "exp_avg", "exp_avg_sq"}
