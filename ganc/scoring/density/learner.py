"""One agent with its optimiser, and a step of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ganc import collectives
from ganc.optimizer_state import optimizer_state, restore_optimizer
from ganc.scoring.density.agent import EMBEDDING_DIM, Decision, new_agent, sample_gates
from ganc.scoring.density.budget import budget_loss
from ganc.scoring.density.gates import GatedNetwork
from ganc.scoring.density.recipe import DensityRecipe


class Learner:
    """Learns the gates of one network; with ``target`` None it has none, and they stay open.

    Args:
        name: Of the network, for its random numbers and its tensors in a state file.
        network: What the gates belong to.
        target: MACs that they are to leave, or None.
        budget_weight: Of the penalty for missing it.
        others: Modules that are trained with the agent → their learning rate.
    Attributes:
        spoken: [EMBEDDING_DIM], what the other agent hears of this one; zeros before it spoke.
    """

    def __init__(
        self,
        name: str,
        network: GatedNetwork,
        recipe: DensityRecipe,
        *,
        target: float | None,
        budget_weight: float,
        seed: int,
        device: torch.device,
        others: Mapping[str, tuple[nn.Module, float]],
    ) -> None:
        self.name, self.network, self.recipe = name, network, recipe
        self.target, self.budget_weight = target, budget_weight
        self.modules: dict[str, nn.Module] = {key: module for key, (module, _) in others.items()}
        groups: list[dict[str, Any]] = [
            {"params": list(module.parameters()), "lr": lr, "weight_decay": 0.0}
            for module, lr in others.values()
        ]
        self.agent = None
        if target is not None:
            self.agent = new_agent(
                network.widths, recipe.feedback, seed, f"density.{name}.agent"
            ).to(device)
            self.modules["agent"] = self.agent
            groups.append({"params": list(self.agent.parameters())})
        self.spoken = torch.zeros(EMBEDDING_DIM, device=device)
        self.adam = None
        if groups:
            self.adam = torch.optim.AdamW(
                groups, lr=recipe.lr, weight_decay=recipe.weight_decay,
                betas=(recipe.beta1, recipe.beta2),
            )  # fmt: skip

    @property
    def learns(self) -> bool:
        """Whether a step would change anything."""
        return self.adam is not None

    def decide(self, heard: Tensor) -> Decision | None:
        """Ask the agent, and remember what it said of its architecture; None without one."""
        if self.agent is None:
            return None
        decision: Decision = self.agent(heard)
        self.spoken = decision.embedding
        return decision

    def gates(self, decision: Decision, noise: Tensor) -> Tensor:
        """Draw gates [n] of a decision, with gradient; ``noise`` is Gumbel, [n]."""
        return sample_gates(decision.logits, noise, self.network.widths, self.recipe)

    def clear(self) -> None:
        """Forget the gradients of the step before."""
        if self.adam is not None:
            self.adam.zero_grad(set_to_none=True)

    def descend(self, gates: Tensor | None, leaf: Tensor | None) -> dict[str, Tensor]:
        """Take a step of the optimiser.

        Args:
            gates: As ``gates`` returned them.
            leaf: Their copy, which carries the gradient of the game.
        Returns:
            The MAC ratio of the gates drawn, and the gradient's norm.
        """
        assert self.adam is not None  # only who ``learns`` descends
        gradients = {
            name: parameter.grad
            for name, parameter in self._parameters()
            if parameter.grad is not None
        }
        if leaf is not None and leaf.grad is not None:
            gradients["gates"] = leaf.grad
        collectives.all_sum_(gradients)
        found: dict[str, Tensor] = {}
        if gates is not None and self.agent is not None and self.target is not None:
            macs = self.network.macs(gates)
            penalty = self.budget_weight * budget_loss(macs, self.target, self.recipe.budget)
            ((gates * gradients["gates"]).sum() + penalty.float()).backward()
            norm = nn.utils.clip_grad_norm_(self.agent.parameters(), self.recipe.grad_clip)
            found = {"macs": (macs / self.target).detach(), "grad_norm": norm.detach()}
        self.adam.step()
        return found

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step reads."""
        tensors = {f"{self.name}.spoken": self.spoken}
        for key, module in self.modules.items():
            for name, tensor in module.state_dict().items():
                tensors[f"{self.name}.{key}.{name}"] = tensor
        if self.adam is not None:
            tensors |= optimizer_state(self.adam, self._saved_parameters(), "/")
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` returned; the other's tensors are left alone."""
        self.spoken = tensors[f"{self.name}.spoken"].to(self.spoken)
        for key, module in self.modules.items():
            prefix = f"{self.name}.{key}."
            module.load_state_dict({k: tensors[prefix + k] for k in module.state_dict()})
        if self.adam is not None:
            restore_optimizer(self.adam, self._saved_parameters(), tensors, "/")

    def _saved_parameters(self) -> dict[str, nn.Parameter]:
        return {f"{self.name}.adam.{name}": parameter for name, parameter in self._parameters()}

    def _parameters(self) -> Sequence[tuple[str, nn.Parameter]]:
        return [
            (f"{key}.{name}", parameter)
            for key, module in self.modules.items()
            for name, parameter in module.named_parameters()
        ]
