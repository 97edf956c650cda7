"""A distribution of images, pixel after pixel: p(x) = prod_i p(x_i | the pixels before), of bits or of levels.

    bits       p(x_i = 1 | ...) = s(a_i)                                                     s the sigmoid
    levels     p(x_i = l | ...) = sum_m pi_m [ s((l + w/2 - mu_m) / c_m) - s((l - w/2 - mu_m) / c_m) ]

Levels go from -1 to 1, a width w apart, and the bins of the first and the last reach to infinity: discretized logistic
mixtures (Salimans et al. 2017, arXiv:1701.05517). Of the channels of a pixel the red one comes first: the means of the
others move with the channels before, in proportion. Bits of several channels are independent given the pixels before.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Described
from agentlib.learners.generative.latent_model import bernoulli_log_likelihood

Likelihood = Literal["bernoulli", "logistic"]
SMALLEST_LOG_SCALE = -7.0


def outputs_for(likelihood: Likelihood, channels: int, mixtures: int) -> int:
    """Numbers that a network gives for each pixel."""
    return channels if likelihood == "bernoulli" else mixtures * _numbers(channels)


def logistic_log_probability(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """log p(x) of a logistic distribution in bins, number by number; the levels x are from -1 to 1.

    With u and l the standardized edges of a bin, s(u) - s(l) = s(u) s(-l) (1 - exp(l - u)), which no rounding makes 0.
    """
    half, inverse = 1.0 / (levels - 1), (-log_scale).exp()
    is_first, is_last = x < half - 1.0, x > 1.0 - half
    below = functional.logsigmoid((x - mean + half) * inverse).masked_fill(is_last, 0.0)
    above = functional.logsigmoid((mean - x + half) * inverse).masked_fill(is_first, 0.0)
    inside = (-torch.expm1(-2.0 * half * inverse)).log().masked_fill(is_first | is_last, 0.0)
    return below + above + inside


def mixture_log_likelihood(numbers: Tensor, x: Tensor, levels: int) -> Tensor:
    """log p(x) `(B, ...)` of each pixel.

    Args:
        numbers: of the mixtures, `(B, mixtures * (1 + 2 C + C (C - 1) / 2), ...)`.
        x: levels from 0 to 1, `(B, C, ...)`.
        levels: how many there are.
    """
    logits, means, log_scales, slopes = _mixture(numbers, x.shape[1])
    x = 2.0 * x - 1.0
    total = logits.log_softmax(1)  # (B, M, ...)
    for channel in range(x.shape[1]):
        mean = means[:, :, channel] + _moved(slopes, x, channel)
        total = total + logistic_log_probability(x[:, None, channel], mean, log_scales[:, :, channel], levels)
    return total.logsumexp(1)


def _numbers(channels: int) -> int:
    return 1 + 2 * channels + channels * (channels - 1) // 2


def _mixture(numbers: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits `(B, M, ...)`, means and log scales `(B, M, C, ...)`, slopes `(B, M, C (C - 1) / 2, ...)`.

    Numbers of 0 mean components side by side from -1 to 1.
    """
    each = numbers.unflatten(1, (-1, _numbers(channels)))  # (B, M, numbers, ...)
    logits, means, log_scales, slopes = each.split([1, channels, channels, channels * (channels - 1) // 2], 2)
    places = torch.linspace(-1.0, 1.0, each.shape[1], device=numbers.device, dtype=numbers.dtype)
    means = means + places.view(-1, *[1] * (each.dim() - 2))
    return logits[:, :, 0], means, (log_scales - 2.0).clamp_min(SMALLEST_LOG_SCALE), slopes.tanh()


def _moved(slopes: Tensor, x: Tensor, channel: int) -> Tensor | float:
    """How far the channels before move the mean of one: `(B, M, ...)`."""
    first = channel * (channel - 1) // 2
    moved: Tensor | float = 0.0
    for before in range(channel):
        moved = moved + slopes[:, :, first + before] * x[:, None, before]
    return moved


class PixelModel(Described):
    """p(x) of images with numbers from 0 to 1, by a network that sees the pixels before each one.

    Args:
        network: images `(B, C, H, W)` and labels to `(B, outputs, H, W)`, such as `GatedPixelCNN`.
        likelihood: "bernoulli" of bits, or "logistic" of levels.
        levels: how many there are between 0 and 1, both included.
    """

    kind = "pixel_model"

    def __init__(self, network: nn.Module, likelihood: Likelihood = "logistic", levels: int = 256) -> None:
        super().__init__()
        self.network, self.likelihood, self.levels = network, likelihood, int(levels)

    @property
    def n_classes(self) -> int:
        """Number of labels; 0 for a model that takes none."""
        return int(getattr(self.network, "n_classes", 0))

    def log_likelihood(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """log p(x) `(B,)` in nats, exact, of images `(B, C, H, W)`, given their labels `(B,)`."""
        numbers = self.network(x, label)
        if self.likelihood == "bernoulli":
            return bernoulli_log_likelihood(numbers.flatten(1), x.flatten(1))
        return mixture_log_likelihood(numbers, x, self.levels).flatten(1).sum(1)

    def draw(self, numbers: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Values `(n, C)` of one pixel by its numbers `(n, outputs)`."""
        if self.likelihood == "bernoulli":
            return torch.bernoulli(numbers.sigmoid(), generator=generator)
        channels = self.network.shape[0]  # type: ignore[index]
        logits, *parts = _mixture(numbers, int(channels))
        chosen = torch.multinomial(logits.softmax(1), 1, generator=generator)[..., None]  # (n, 1, 1)
        means, log_scales, slopes = (part.take_along_dim(chosen, 1) for part in parts)  # (n, 1, ...)
        found = numbers.new_zeros(len(numbers), int(channels))
        for channel in range(int(channels)):
            share = torch.rand(len(numbers), 1, generator=generator, device=numbers.device, dtype=numbers.dtype)
            mean = means[:, :, channel] + _moved(slopes, found, channel)
            x = mean + log_scales[:, :, channel].exp() * share.logit(1e-7)
            level = ((x + 1.0) / 2.0 * (self.levels - 1)).round().clamp(0, self.levels - 1)
            found[:, channel] = 2.0 * level[:, 0] / (self.levels - 1) - 1.0
        return (found + 1.0) / 2.0

    @torch.no_grad()
    def sample(self, n: int, label: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """n images `(n, C, H, W)`, with the labels `(n,)` of a conditional model.

        Raises:
            ValueError: labels are missing, or the model is not conditional.
        """
        if (label is None) != (not self.n_classes):
            wanted = f"a label below {self.n_classes} for each image" if self.n_classes else "no labels"
            raise ValueError(f"this model takes {wanted}")
        network: Any = self.network
        images: Tensor = network.generate(n, lambda numbers: self.draw(numbers, generator), label)
        return images
