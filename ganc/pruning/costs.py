"""What a plan costs, by the kind of budget, and how much it may cost."""

import math
from abc import ABC, abstractmethod
from typing import Any

from ganc.errors import UsageError
from ganc.groups import count_macs, count_params, sliced_shapes
from ganc.models.network import Network
from ganc.pruning.slicing import Widths


class Cost(ABC):
    """What plans cost in a unit.

    Attributes:
        most: What one may cost.
        falls: Whether a narrower plan never costs more.
    """

    most: float
    falls: bool = True

    @abstractmethod
    def of(self, widths: Widths) -> float:
        """Return what a plan of these widths costs; groups without a width keep theirs."""

    @abstractmethod
    def refusal(self, widths: Widths, level: float) -> UsageError:
        """Say that not even the cheapest plan fits, which has these widths at this level."""

    def is_settled(self, widths: Widths) -> bool:
        """Whether ``of`` can be relied on for these widths; where not, it is better from now on."""
        return True

    def findings(self, widths: Widths) -> dict[str, Any]:
        """Return what is worth keeping about the chosen plan, as JSON data."""
        return {}


class Counted(Cost):
    """A count: multiply-accumulates or parameters of a network."""

    def __init__(self, network: Network, most: float, unit: str) -> None:
        self.network, self.most, self.unit = network, most, unit
        self.shapes, self.groups = network.shapes(), network.groups()

    def refusal(self, widths: Widths, level: float) -> UsageError:
        return UsageError(
            f"no plan has at most {self.most:.6g} {self.unit}: the smallest has {self.of(widths)}",
            "raise the budget, or lower --min-width or --round-to",
        )


class Macs(Counted):
    """Multiply-accumulates per image."""

    def __init__(self, network: Network, most: float) -> None:
        super().__init__(network, most, "MACs")
        self.positions = network.mac_positions()

    def of(self, widths: Widths) -> int:
        return count_macs(sliced_shapes(self.shapes, self.groups, widths), self.positions)


class Params(Counted):
    """Parameters."""

    def __init__(self, network: Network, most: float) -> None:
        super().__init__(network, most, "parameters")
        self.parameters = [name for name, _ in network.named_parameters()]

    def of(self, widths: Widths) -> int:
        return count_params(sliced_shapes(self.shapes, self.groups, widths), self.parameters)


def macs_at_speedup(network: Network, speedup: float) -> Macs:
    """Return the MACs of a network with the most, up to all, of which it has ``speedup`` times.

    The quotient of the two counts decides, rounded as anybody gets it who divides them: the way
    back, ``whole / speedup``, may round below a plan that has the speedup asked for.
    """
    whole = network.macs()
    most = max(0, math.floor(min(whole, whole / speedup)) - 1)
    while most < whole and whole / (most + 1) >= speedup:
        most += 1
    return Macs(network, most)
