"""Content-aware scores: how much a channel matters for the contents of interest.

Source: Liu et al. 2021, "Content-Aware GAN Compression", and what its published code computes.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ganc import seeds
from ganc.content.pixels import fit_masks
from ganc.content.preview import draw_masks
from ganc.content.request import MaskRequest
from ganc.content.sources import check_masks, open_masks
from ganc.devices import resolve_device
from ganc.errors import InputError, ShapeError, UsageError, unknown_name
from ganc.models.model import Model
from ganc.models.network import NOISE_MODES, LatentGenerator
from ganc.models.sampling import latent_inputs
from ganc.progress import Progress, silent
from ganc.scoring.read import mean_abs, scored_tensors
from ganc.scoring.request import ScoreRequest
from ganc.scoring.scorer import Scorer, State, batch_ranges

PROTECTED = "protected pixels"
"""What is counted beside the groups' sums: no pixel in any sample means that nothing was measured.
"""


class Content(Scorer):
    """Sum, over batches, a channel's sensitivity to noise on the contents of interest.

    Per batch: x = G(z); salt and pepper, −1 or +1 in all channels, hits the share ``noise_prob`` of
    the mask's pixels and gives x_noisy, a constant; L = Σ |x_noisy − x|; the batch adds
    s[c] = mean |∂L/∂W[:, c]| on the weights that consume channel c. Only hit pixels send a
    gradient back, so a sample whose mask is empty adds nothing.

    Raises:
        UsageError: A setting is out of range, or the generator takes no latents.
        ShapeError: ``latents``, ``masks``, ``salt`` or ``noise`` do not fit.
        InputError: The mask source cannot be opened.
    Settings are those that ``check`` lets pass.
    """

    def __init__(self, model: Model, request: ScoreRequest) -> None:
        super().__init__(model, request)
        if not isinstance(self.generator, LatentGenerator):
            raise UsageError(
                f"method content draws latents, a {model.architecture} takes images instead",
                "score it with --method activation, l1-out or random",
            )
        self.latent_generator = self.generator
        # Gradients are taken at these weights and no others, whatever the caller has frozen.
        self.generator.requires_grad_(False)
        self.weights = {
            name: self.generator.get_parameter(name).requires_grad_()
            for name in scored_tensors(self.groups)
        }
        self.ranges = batch_ranges(request.samples, request.batch)
        _check_tensors(self.latent_generator, request, self.ranges)
        self.source = (
            open_masks(
                request.content,
                MaskRequest(
                    request.samples, request.device, request.progress, request.offline,
                    request.warn,
                ),
            ) if _needs_source(request) else None
        )  # fmt: skip

    @classmethod
    def check(cls, request: ScoreRequest) -> None:
        """Refuse settings as far as that costs nothing.

        Raises:
            UsageError: A setting is out of range, or the mask source is none.
            InputError: The mask source is not there.
        """
        if not 0 <= request.noise_prob <= 1:
            raise UsageError(f"--noise-prob {request.noise_prob:g} is outside [0, 1]")
        if request.noise_mode not in NOISE_MODES:
            raise unknown_name("--noise-mode", request.noise_mode, NOISE_MODES)
        if _needs_source(request):
            check_masks(request.content, request.samples, offline=request.offline)

    def batches(self) -> Sequence[range]:
        return self.ranges

    def empty(self) -> State:
        sums = {g.name: torch.zeros(g.width, dtype=torch.float64) for g in self.groups}
        return {**sums, PROTECTED: torch.zeros((), dtype=torch.float64)}

    @torch.enable_grad()
    def step(self, number: int, indices: range) -> State:
        images = self._render(number, indices)
        masks = self._masks(images.detach(), indices)
        salt = self._salt(masks, indices)[:, None].to(images)  # [n, 1, H, W]
        noisy = torch.where(salt == 0, images.detach(), salt)
        loss = (noisy - images).abs().sum()
        found = torch.autograd.grad(loss, list(self.weights.values()))
        gradients = dict(zip(self.weights, found, strict=True))
        scores = {group.name: mean_abs(gradients, group).cpu() for group in self.groups}
        return {**scores, PROTECTED: masks.sum().double()}

    def finish(self, total: State, samples: int) -> dict[str, Tensor]:
        is_all = samples == self.request.samples
        if self.source is not None and is_all and total[PROTECTED] == 0:
            raise InputError(
                f"--content {self.request.content} finds nothing in any of {samples} samples",
                "--preview shows what it finds; masks protect where they are bright; the offline"
                " default is --content center",
            )
        return {group.name: total[group.name] for group in self.groups}

    @torch.no_grad()
    def look(self, number: int, indices: range) -> tuple[Tensor, Tensor]:
        """Return a batch's images [n, C, H, W] and masks [n, H, W], on the CPU."""
        images = self._render(number, indices)
        return images.cpu(), self._masks(images, indices)

    def _render(self, number: int, indices: range) -> Tensor:
        request = self.request
        inputs = latent_inputs(
            self.latent_generator, indices, request.seed, noise_mode=request.noise_mode
        )
        if request.latents is not None:
            inputs = replace(inputs, z=_part(request.latents, indices))
        if request.noise is not None:
            inputs = replace(inputs, noise=list(request.noise[number]))
        inputs = inputs.to(request.device)
        images: Tensor = self.latent_generator(
            inputs.z, inputs.c, noise_mode=inputs.noise_mode, noise=inputs.noise
        )
        return images

    def _masks(self, images: Tensor, indices: range) -> Tensor:
        """Return what is protected, bool [n, H, W] on the CPU."""
        if self.request.masks is not None:
            masks = _part(self.request.masks, indices)
        elif self.source is not None:
            masks = self.source(images, indices)
        else:
            masks = torch.ones(len(indices), *images.shape[2:], dtype=torch.bool)
        return fit_masks(masks, images.shape[2], images.shape[3])

    def _salt(self, masks: Tensor, indices: range) -> Tensor:
        """Return −1 or +1 where a pixel is hit, else 0: [n, H, W] on the CPU."""
        if self.request.salt is not None:
            return _part(self.request.salt, indices).cpu() * masks
        drawn = [
            draw_salt(self.request.seed, index, mask.shape, self.request.noise_prob)
            for index, mask in zip(indices, masks, strict=True)
        ]
        return torch.stack(drawn) * masks


def _needs_source(request: ScoreRequest) -> bool:
    """Salt says by itself what is hit, masks what is protected: no source is asked then."""
    return request.masks is None and request.salt is None


def draw_salt(seed: int, index: int, size: Sequence[int], noise_prob: float) -> Tensor:
    """Draw the noise of one sample: every pixel is hit with ``noise_prob``, by −1 or +1 alike.

    It knows nothing of the mask, so that another mask changes no other pixel.

    Returns:
        [H, W], int8, in −1, 0 (untouched), +1.
    """
    random = seeds.generator(seed, "salt", index)
    hits = random.random(tuple(size)) < noise_prob
    signs = random.integers(0, 2, tuple(size)) * 2 - 1
    return torch.from_numpy(hits * signs).to(torch.int8)


def preview(
    model: Model,
    *,
    content: str = "center",
    num: int = 16,
    seed: int = 0,
    noise_mode: str = "random",
    device: str | torch.device = "auto",
    progress: Progress = silent,
    offline: bool = False,
) -> Tensor:
    """Show what ``score`` with the same settings protects in its first samples.

    Returns:
        A grid, [3, H, W] in [-1, 1]: protected pixels bright and outlined, the others dimmed.
    Raises:
        As ``Content``.
    """
    if model.generator is None:
        raise InputError("the model holds no generator to look at")
    request = ScoreRequest(
        samples=num, batch=1, seed=seed, noise_mode=noise_mode, content=content,
        device=resolve_device(device), progress=progress, offline=offline,
    )  # fmt: skip
    Content.check(request)
    own = Model(generator=model.generator.copy_on(request.device))
    scorer = Content(own, request)
    images, masks = zip(
        *(scorer.look(number, indices) for number, indices in enumerate(scorer.batches())),
        strict=True,
    )
    return draw_masks(torch.cat(images), torch.cat(masks))


def _part(values: Tensor, indices: range) -> Tensor:
    return values[indices.start : indices.stop]


def _check_tensors(
    generator: LatentGenerator, request: ScoreRequest, ranges: Sequence[range]
) -> None:
    count, side = request.samples, generator.img_resolution
    latents, masks, salt = request.latents, request.masks, request.salt
    if latents is not None and latents.shape != (count, generator.z_dim):
        raise ShapeError(
            f"latents must be z vectors [{count}, {generator.z_dim}], got {list(latents.shape)}"
        )
    if masks is not None and (masks.ndim != 3 or len(masks) != count):
        raise ShapeError(f"masks must be [{count}, H, W], got {list(masks.shape)}")
    if masks is not None and masks.dtype != torch.bool:
        raise UsageError(f"masks must be bool, got {masks.dtype}", "pass masks > 0.5, say")
    if salt is not None and salt.shape != (count, side, side):
        raise ShapeError(f"salt must be [{count}, {side}, {side}], got {list(salt.shape)}")
    if salt is not None and not torch.isin(salt, torch.tensor([-1, 0, 1]).to(salt)).all():
        raise UsageError("salt must be -1, 0 or +1 everywhere, 0 leaves a pixel untouched")
    if request.noise is not None:
        _check_noise(generator, request.noise, ranges)


def _check_noise(
    generator: LatentGenerator, noise: Sequence[Sequence[Tensor]], ranges: Sequence[range]
) -> None:
    if len(noise) != len(ranges):
        raise ShapeError(f"noise must hold {len(ranges)} batches, got {len(noise)}")
    for number, (maps, indices) in enumerate(zip(noise, ranges, strict=True)):
        expected = [[len(indices), *shape] for shape in generator.noise_shapes()]
        found = [list(one.shape) for one in maps]
        if found != expected:
            raise ShapeError(f"noise[{number}] must be maps of shapes {expected}, got {found}")
