"""Diffusion models: the noise in a noisy sample, predicted by a network, and the samplers that remove it step by step.

    q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I),   abar_t = prod_{s <= t} (1 - beta_s)           (Ho et al. 2020)

The network gives the velocity v = sqrt(abar_t) noise - sqrt(1 - abar_t) x_0, from which both noise and x_0 follow
without a division by sqrt(abar_t), which is nearly 0 at late times (Salimans & Ho 2022). Times are indices 0 .. T - 1.
Inside, data is brought to mean 0 and variance 1 (`standardize`), and back at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from agentlib.backbones.specs import Described
from agentlib.core.names import look_up
from agentlib.core.progress import watched

Schedule = Literal["linear", "cosine"]
Variance = Literal["small", "large", "learned"]
Sampler = Literal["ddpm", "ddim", "dpm"]
VARIANCES: dict[str, Variance] = {name: name for name in get_args(Variance)}
SAMPLERS: dict[str, Sampler] = {name: name for name in get_args(Sampler)}
LARGEST_BETA = 0.999


def betas(schedule: Schedule, noise_steps: int) -> Tensor:
    """The variance `(T,)`, float64, of the noise that each step adds.

    "linear": 1e-4 to 0.02 for T = 1000 (Ho et al. 2020), and in proportion for other T, so that the end is as noisy.
    "cosine": such that abar_t = cos^2((t / T + s) / (1 + s) pi / 2), s = 0.008, normalized to 1 at 0, and cut at 0.999
    (Nichol & Dhariwal 2021).

    Raises:
        ValueError: unknown schedule, or fewer than two steps.
    """
    if noise_steps < 2:
        raise ValueError(f"diffusion needs at least 2 noise steps, not {noise_steps}")
    if schedule == "linear":
        scale = 1000 / noise_steps
        return torch.linspace(1e-4 * scale, 0.02 * scale, noise_steps, dtype=torch.float64).clamp(max=LARGEST_BETA)
    if schedule == "cosine":
        t = torch.arange(noise_steps + 1, dtype=torch.float64) / noise_steps
        kept = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
        return (1.0 - kept[1:] / kept[:-1]).clamp(max=LARGEST_BETA)
    raise ValueError(f"unknown noise schedule {schedule!r}; known: linear, cosine")


class DiffusionModel(Described):
    """A distribution over samples of one shape, given by a network that predicts the noise in them.

    Args:
        denoiser: `denoiser(x, time, condition)` gives the velocity, as `MLPDenoiser` does.
        shape: of one sample.
        noise_steps: T, the number of steps between data and pure noise.
        schedule: how noise grows, "linear" or "cosine".
        clip: while sampling, cut predictions of x_0 to the range of the data. Right for data with hard limits, such as
            actions and pixels, and for samples in few steps; it would cut the tails of points in the plane.
        variance: of the random steps of "ddpm": "small", that of q(x_{t-1} | x_t, x_0); "large", beta_t; or "learned",
            exp(v log large + (1 - v) log small) with v by the denoiser (Nichol & Dhariwal 2021, eq. 15).
    """

    kind = "diffusion"

    beta: Tensor
    alpha_bar: Tensor
    alpha_bar_before: Tensor
    center: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        denoiser: nn.Module,
        shape: Sequence[int],
        noise_steps: int = 1000,
        schedule: Schedule = "cosine",
        clip: bool = False,
        variance: Variance = "small",
    ) -> None:
        super().__init__()
        self.denoiser, self.shape = denoiser, tuple(shape)
        self.noise_steps, self.schedule, self.clip = int(noise_steps), schedule, bool(clip)
        self.variance = look_up("variance", variance, VARIANCES)
        beta = betas(schedule, self.noise_steps)
        kept = (1.0 - beta).cumprod(0)  # float64: late in the cosine schedule it is tiny
        self.register_buffer("beta", beta, persistent=False)
        self.register_buffer("alpha_bar", kept, persistent=False)
        self.register_buffer("alpha_bar_before", torch.cat([kept.new_ones(1), kept[:-1]]), persistent=False)
        for name, value in (("center", 0.0), ("scale", 1.0), ("low", -math.inf), ("high", math.inf)):
            self.register_buffer(name, torch.full(self.shape, value))

    @torch.no_grad()
    def standardize(self, data: Tensor) -> None:
        """Takes mean, deviation and range from data `(N, *shape)`; one deviation, so that proportions are kept."""
        self.center.copy_(data.mean(0))
        deviation = (data - data.mean(0)).square().mean().sqrt()
        self.scale.copy_(torch.where((data != data[:1]).any(), deviation, 1.0).expand(self.shape))
        self.low.copy_((data.amin(0) - self.center) / self.scale)
        self.high.copy_((data.amax(0) - self.center) / self.scale)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The noise predicted in standardized x `(B, *shape)` at times `(B,)` int64."""
        return self.noise_in(x, t, self.velocity(x, t, condition))

    def clean(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The x_0 predicted from x; cut to the data's range if `clip`."""
        return self.origin_in(x, t, self.velocity(x, t, condition))

    def velocity(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The network's prediction."""
        return self.outputs(x, t, condition)[0]

    def outputs(
        self, x: Tensor, t: Tensor, condition: Tensor | None = None, guidance_scale: float = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        """The velocity `(B, *shape)`, and the logits of v `(B, *shape)` of a learned variance, or None.

        With a condition c both are guided without a classifier (Ho & Salimans 2022, arXiv:2207.12598), s the
        `guidance_scale`: (1 - s) f(x) + s f(x, c). So 1 is plain and 0 unconditional, each of one pass.
        """
        time = (t.to(x.dtype) + 1.0) / self.noise_steps
        if condition is None or guidance_scale in (0.0, 1.0):
            output = self.denoiser(x, time, condition if guidance_scale else None)
        else:
            both = torch.cat([torch.zeros_like(condition), condition])
            plain, conditional = self.denoiser(torch.cat([x, x]), torch.cat([time, time]), both).chunk(2)
            output = plain + guidance_scale * (conditional - plain)
        velocity, logits = output.chunk(2, 1) if self.variance == "learned" else (output, None)
        return velocity, logits

    def noise_in(self, x: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """The noise in x by its velocity, each `(B, *shape)`."""
        kept = self._at(self.alpha_bar, t)
        noise: Tensor = kept.sqrt() * velocity + (1.0 - kept).sqrt() * x
        return noise

    def origin_in(self, x: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """The x_0 of x by its velocity, each `(B, *shape)`; cut to the data's range if `clip`."""
        kept = self._at(self.alpha_bar, t)
        origin: Tensor = kept.sqrt() * x - (1.0 - kept).sqrt() * velocity
        return torch.minimum(torch.maximum(origin, self.low), self.high) if self.clip else origin

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, for standardized x_0 `(B, *shape)` and times `(B,)`."""
        kept = self._at(self.alpha_bar, t)
        return kept.sqrt() * x + (1.0 - kept).sqrt() * noise

    def posterior(self, origin: Tensor, x: Tensor, t: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean `(B, *shape)` and variance `(B, 1, ...)` of q(x_{t-1} | x_t, x_0); the small of the two usual ones.

        With `previous (B,)` the step leads to these times in place of t - 1.
        """
        kept, before, beta = self._step(t, previous)
        mean = (before.sqrt() * beta * origin + (1.0 - beta).sqrt() * (1.0 - before) * x) / (1.0 - kept)
        return mean, (1.0 - before) / (1.0 - kept) * beta

    def log_variance(self, t: Tensor, logits: Tensor | None = None, previous: Tensor | None = None) -> Tensor:
        """That of p(x_{t-1} | x_t), as `variance` has it: `(B, 1, ...)`, or `(B, *shape)` by the logits of v.

        At t = 0, where the small variance is 0, that of t = 1 stands for it.
        """
        kept, before, beta = self._step(t.clamp_min(1), previous)
        small, large = (before.neg().log1p() - kept.neg().log1p() + beta.log()), self._step(t, previous)[2].log()
        if logits is not None:
            return torch.lerp(small, large.expand_as(logits), logits.sigmoid())
        return large if self.variance == "large" else small

    def _step(self, t: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """abar_t, abar at the end of the step, and the beta of the step, each `(B, 1, ...)`."""
        if previous is None:
            return self._at(self.alpha_bar, t), self._at(self.alpha_bar_before, t), self._at(self.beta, t)
        beta = 1.0 - self.alpha_bar[t] / self.alpha_bar[previous]  # in float64
        return self._at(self.alpha_bar, t), self._at(self.alpha_bar, previous), self._column(beta)

    def _at(self, values: Tensor, t: Tensor) -> Tensor:
        return self._column(values[t])

    def _column(self, values: Tensor) -> Tensor:
        """Values `(B,)` as `(B, 1, ...)`, so that they multiply samples."""
        return values.to(self.center.dtype).view(-1, *[1] * len(self.shape))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        *,
        steps: int | None = None,
        sampler: Sampler | None = None,
        guidance_scale: float = 1.0,
        guide: Callable[[Tensor, Tensor], Tensor] | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n samples `(n, *shape)`.

        Args:
            n: number of samples.
            condition: `(n, condition_dim)`.
            steps: passes of the network, on twice the samples where they are guided; None takes all T.
            sampler: "ddpm" takes random steps (ancestral sampling), the default for None; "ddim" fixed ones (Song
                et al. 2021), of which fewer will do, the default for a number; "dpm" likewise, of second order:
                DPM-Solver++ (2M) (Lu et al. 2022, arXiv:2211.01095). Fixed steps give the same for the same noise.
            guidance_scale: how far the guide, or without one the condition, is followed; more than 1 exaggerates it.
            guide: log p(y | x_t) `(n,)` of standardized x `(n, *shape)` at times `(n,)`, such as a classifier's of
                `clean(x, t)`: what is sampled is then p(x | y) (Dhariwal & Nichol 2021, arXiv:2105.05233).
            noise: `(n, *shape)`, the start.
            generator: of the noise; by default torch's.

        Raises:
            ValueError: fewer than one step, or more than T; an unknown sampler; guidance without a condition.
        """
        if steps is not None and not 1 <= steps <= self.noise_steps:
            raise ValueError(f"the sampler takes 1 to {self.noise_steps} steps, not {steps}")
        if guidance_scale != 1.0 and condition is None and guide is None:
            raise ValueError("guidance_scale says how far a condition or a guide is followed, and there is neither")
        kind = look_up("sampler", sampler or ("ddpm" if steps is None else "ddim"), SAMPLERS)
        like: dict[str, Any] = {"device": self.center.device, "dtype": self.center.dtype}
        x = torch.randn(n, *self.shape, generator=generator, **like) if noise is None else noise
        times = np.linspace(self.noise_steps - 1, 0, steps or self.noise_steps).round().astype(int).tolist()
        origin, growth = x, [0.0, *self._growths(times)] if kind == "dpm" else [0.0] * len(times)
        for i, time in enumerate(watched(times, "sampling")):
            t, earlier = torch.full((n,), time, device=x.device), origin
            velocity, logits = self.outputs(x, t, condition, guidance_scale if guide is None else 1.0)
            if guide is not None:
                velocity = velocity - guidance_scale * self._slope(guide, x, t)
            origin = self.origin_in(x, t, velocity)
            if i == len(times) - 1:
                x = origin
            elif kind == "ddpm":
                previous = None if steps is None else torch.full_like(t, times[i + 1])
                mean, variance = self.posterior(origin, x, t, previous)
                if self.variance != "small":
                    variance = self.log_variance(t, logits, previous).exp()
                x = mean + variance.sqrt() * torch.randn(n, *self.shape, generator=generator, **like)
            else:
                aim = origin + growth[i] * (origin - earlier) if growth[i] else origin
                kept = self._at(self.alpha_bar, t)
                predicted = (x - kept.sqrt() * aim) / (1.0 - kept).sqrt()
                x = self.noised(aim, torch.full_like(t, times[i + 1]), predicted)
        return x * self.scale + self.center

    def _slope(self, guide: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
        """The gradient of log p(y | x) as a velocity: sqrt(1 - abar) times it is missing in the noise."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(guide(x, t).sum(), x)
        odds: Tensor = (1.0 - self.alpha_bar[t]) / self.alpha_bar[t]
        return self._column(odds.sqrt()) * gradient

    def _growths(self, times: Sequence[int]) -> list[float]:
        """For each step but the first, half its length by that of the step before; 0 for the step to the last time.

        A line through the last two x_0 has changed by this share of their difference in the middle of the step. Lengths
        are in log(sqrt(abar) / sqrt(1 - abar)). That of the last step is so large that nothing is foretold there.
        """
        kept = self.alpha_bar[list(times)]
        length = (kept.log() - (-kept).log1p()).diff()
        return [*(0.5 * length[1:-1] / length[:-2]).tolist(), 0.0]
