"""Kaiser-windowed low-pass filters.

Source: Karras et al. 2021, "Alias-Free Generative Adversarial Networks"; the window's parameters
are Kaiser's empirical formulas (Oppenheim and Schafer, "Discrete-Time Signal Processing").
"""

import math

import torch
from torch import Tensor


def lowpass_filter(taps: int, cutoff: float, width: float, sampling_rate: float) -> Tensor:
    """Design a separable filter.

    Args:
        taps: Number of coefficients.
        cutoff: Where the response falls to half, in cycles per unit.
        width: Of the transition band, in the same unit.
        sampling_rate: Samples per unit.
    Returns:
        [taps], float32 on the CPU, sum 1; its outer product with itself is the image filter.
    """
    x = _positions(taps, sampling_rate)
    response = torch.sinc(2 * cutoff * x) * _kaiser(taps, width, sampling_rate)
    return (response / response.sum()).float()


def radial_lowpass_filter(taps: int, cutoff: float, width: float, sampling_rate: float) -> Tensor:
    """Design a rotationally symmetric filter: [taps, taps]; arguments as ``lowpass_filter``.

    ``taps`` is even: the jinc function is not evaluated at the centre.
    """
    x = _positions(taps, sampling_rate)
    radius = torch.hypot(x[:, None], x[None, :])
    window = _kaiser(taps, width, sampling_rate)
    jinc = torch.special.bessel_j1(2 * math.pi * cutoff * radius) / (math.pi * radius)
    response = jinc * window.outer(window)
    return (response / response.sum()).float()


def _positions(taps: int, sampling_rate: float) -> Tensor:
    steps = torch.arange(taps, dtype=torch.float64, device="cpu")
    return (steps - (taps - 1) / 2) / sampling_rate


def _kaiser(taps: int, width: float, sampling_rate: float) -> Tensor:
    """Return the window whose side lobes fit a transition band of this width."""
    attenuation = 2.285 * (taps - 1) * math.pi * width / (sampling_rate / 2) + 7.95  # decibels
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    return torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64, device="cpu")
