"""One side of the game: networks that one optimiser trains together."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ganc import collectives
from ganc.distillation.recipes import Recipe
from ganc.optimizer_state import optimizer_state, restore_optimizer


class Player:
    """Networks and their optimiser: the generators of a run, or its discriminators.

    Args:
        networks: Name ("generator", "generator_b") → network, trained in place where it requires
            gradients.
        recipe: Learning rate, betas, epsilon.
        interval: Steps between two extra steps of a regulariser, or None. Learning rate and betas
            are lowered to compensate for the extra steps.
        lr: In place of the recipe's, unless it is 0.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        recipe: Recipe,
        interval: int | None = None,
        *,
        lr: float = 0.0,
    ) -> None:
        self.networks = dict(networks)
        self.trained = [
            p for network in networks.values() for p in network.parameters() if p.requires_grad
        ]
        ratio = 1.0 if interval is None else interval / (interval + 1)
        self.lr = (lr or recipe.lr) * ratio
        self.adam = torch.optim.Adam(
            self.trained,
            lr=self.lr,
            betas=(recipe.beta1**ratio, recipe.beta2**ratio),
            eps=recipe.adam_eps,
            fused=True,
        )

    def descend(self, loss: Tensor) -> Tensor:
        """Take one optimiser step.

        Args:
            loss: A mean over this process's samples; gradients are averaged over all processes.
        Returns:
            The norm of the gradient, on the device.
        """
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for p in self.trained if p.grad is not None]
        collectives.average(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        for group in self.adam.param_groups:  # a recorded step has to say so
            group["capturable"] = loss.is_cuda and torch.cuda.is_current_stream_capturing()
        self.adam.step()
        return norm

    def pace(self, share: float) -> None:
        """Take steps of this share of the learning rate from now on."""
        for group in self.adam.param_groups:
            if isinstance(group["lr"], Tensor):  # where a recorded step reads it
                group["lr"].fill_(self.lr * share)
            else:
                group["lr"] = self.lr * share

    def put_lr_on_device(self) -> None:
        """Keep the learning rate where a recorded step can read it anew."""
        for group in self.adam.param_groups:
            group["lr"] = torch.tensor(group["lr"], device=self.trained[0].device)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Compute no gradients of these weights meanwhile."""
        for parameter in self.trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.trained:
                parameter.requires_grad_(True)

    def state(self) -> dict[str, Tensor]:
        """Return the optimiser's state by parameter: "generator.synthesis.b4.const.exp_avg", …"""
        return optimizer_state(self.adam, self._named_parameters())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` returned; tensors of other players are left alone."""
        restore_optimizer(self.adam, self._named_parameters(), tensors)

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{key}": parameter
            for name, network in self.networks.items()
            for key, parameter in network.named_parameters()
        }
