"""The agents: small networks that say which channels of another network to keep.

Source: Ganjdanesh et al. 2024 (MGGC), Fig. 1: one agent for the generator, one for the
discriminator, which exchange feedback. Their layers follow the hypernetworks of the same authors'
earlier work (Ganjdanesh et al. 2022, "Interpretations Steered Network Pruning"): a bidirectional
GRU over the groups, one weight-normed linear layer each, one Gumbel variable per gate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ganc import seeds
from ganc.scoring.density.recipe import DensityRecipe

INPUT_DIM, STATE_DIM = 64, 128
EMBEDDING_DIM = 2 * STATE_DIM


class Decision(NamedTuple):
    """What an agent says.

    Attributes:
        logits: [n], one per gate, the bias of the recipe not added.
        embedding: [EMBEDDING_DIM], what the other agent hears of it; detached.
    """

    logits: Tensor
    embedding: Tensor


class Agent(nn.Module):
    """Gate logits of one network, from nothing but what the other agent decided.

    Args:
        widths: Channels per group, in network order.
        feedback: "h0", "concat" or "none" (see ``DensityRecipe``). The layer that reads the other's
            embedding starts at zero, so at first all three give the same logits.
    """

    inputs: Tensor

    def __init__(self, widths: Sequence[int], feedback: str) -> None:
        super().__init__()
        self.widths, self.feedback = list(widths), feedback
        orthogonal = nn.init.orthogonal_(torch.empty(len(self.widths), INPUT_DIM))
        self.register_buffer("inputs", orthogonal[:, None])
        self.gru = nn.GRU(INPUT_DIM, STATE_DIM, bidirectional=True)
        self.norm = nn.LayerNorm(EMBEDDING_DIM)
        self.heads = nn.ModuleList(
            weight_norm(nn.Linear(EMBEDDING_DIM, width, bias=False)) for width in self.widths
        )
        sizes = {"h0": EMBEDDING_DIM, "concat": INPUT_DIM}
        if feedback in sizes:
            self.listen = nn.Linear(EMBEDDING_DIM, sizes[feedback], bias=False)
            nn.init.zeros_(self.listen.weight)

    def forward(self, heard: Tensor) -> Decision:
        """Decide, having heard the other's embedding [EMBEDDING_DIM]; zeros before it spoke."""
        inputs, start = self.inputs, None
        if self.feedback == "h0":
            start = self.listen(heard.detach()).reshape(2, 1, STATE_DIM)
        elif self.feedback == "concat":
            inputs = inputs + self.listen(heard.detach())
        states = F.relu(self.norm(self.gru(inputs, start)[0].squeeze(1)))
        parts = [head(state) for head, state in zip(self.heads, states, strict=True)]
        return Decision(torch.cat(parts), states.mean(dim=0).detach())


def new_agent(widths: Sequence[int], feedback: str, seed: int, stream: str) -> Agent:
    """Build an agent whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(seed, stream))
        return Agent(widths, feedback)


def gumbel(seed: int, stream: str, step: int, count: int, device: torch.device) -> Tensor:
    """Draw standard Gumbel numbers [``count``], on the CPU, whatever the device."""
    generator = torch.Generator().manual_seed(seeds.torch_seed(seed, stream, step))
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    tiny = torch.finfo(torch.float64).tiny
    return -torch.log(-torch.log(uniform.clamp(min=tiny))).float().to(device)


def sample_gates(
    logits: Tensor, noise: Tensor, widths: Sequence[int], recipe: DensityRecipe
) -> Tensor:
    """Draw gates [n] of logits [n]: sigmoid((logits + noise + bias) / temperature).

    With one Gumbel variable a gate is open with probability 1 − exp(−exp(logit + bias)). Hard gates
    are 0 or 1 and pass the soft ones' gradient on; of each group the most open one is never closed.
    """
    levels = logits + noise + recipe.gate_bias
    soft = torch.sigmoid(levels / recipe.temperature)
    if recipe.gate == "soft":
        return soft
    # Of levels, not of soft gates: those of far closed ones are all the same zero.
    parts = levels.detach().split(list(widths))
    hard = torch.cat([(part >= 0) | (part == part.max()) for part in parts]).to(soft)
    return (hard - soft).detach() + soft


def probabilities(logits: Tensor, recipe: DensityRecipe) -> Tensor:
    """Return every gate without noise, [n], float64 in (0, 1): what a channel's score is."""
    return torch.sigmoid(logits.detach().double().cpu() + recipe.gate_bias)
