"""Domains: labelled examples from several distributions, some of which are targets, and their batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agentlib.backbones.files import checksum
from agentlib.core.names import close_matches, shown
from agentlib.core.schedules import Clock
from agentlib.core.source import Source
from agentlib.data.augmentation import Augmentation, rotate
from agentlib.data.datasets import DATASETS, Dataset
from agentlib.data.loading import dataset

Balance = Literal["domains", "examples", "groups"]


@dataclass(frozen=True, eq=False)
class Domains:
    """Examples of the same classes from several domains.

    Raises:
        ValueError: no source domain; domains without examples, of other shapes, kinds of numbers or classes, or without
            one class; or a target that is none of them. The message names it.
    """

    parts: Mapping[str, Dataset]
    """The examples by the name of the domain."""
    targets: tuple[str, ...] = ()
    """Domains that nothing is learned from by labels: to adapt to, and to be judged on."""
    seed: int | None = None
    """Of the parts that each domain is split into; None takes the run's."""

    def __post_init__(self) -> None:
        for name in self.targets:
            if name not in self.parts:
                raise ValueError(f"the target {shown(name)} is no domain{close_matches(name, list(self.parts))}")
        if not self.sources:
            raise ValueError("there is no domain to learn from: one that is no target")
        first = self.parts[self.sources[0]]
        for name, part in self.parts.items():
            if not len(part):
                raise ValueError(f"the domain {name} has no examples: leave it out")
            if part.classes != first.classes or not part.classes or part.x.shape[1:] != first.x.shape[1:]:
                raise ValueError(
                    f"the domains {self.sources[0]} and {name} differ: classes {', '.join(first.classes)} and "
                    f"{', '.join(part.classes)}, shapes {tuple(first.x.shape[1:])} and {tuple(part.x.shape[1:])}"
                )
            if part.x.is_floating_point() != first.x.is_floating_point():
                raise ValueError(
                    f"the domains {self.sources[0]} and {name} hold {first.x.dtype} and {part.x.dtype}: give "
                    "floating-point numbers, images between 0 and 1"
                )
            missing = sorted(set(range(len(part.classes))) - set(part.targets.tolist()))
            if missing:
                raise ValueError(f"the domain {name} has no example of the class {part.classes[missing[0]]}")

    @property
    def sources(self) -> tuple[str, ...]:
        """The domains that are learned from."""
        return tuple(name for name in self.parts if name not in self.targets)

    def leave_out(self, *names: str) -> Domains:
        """The same domains with these as the targets."""
        return replace(self, targets=names)

    def each_left_out(self) -> Iterator[Domains]:
        """Once for each domain, with it as the target: the splits of domain generalization."""
        return (self.leave_out(name) for name in self.parts)


class DomainExamples(NamedTuple):
    """A batch of N examples of the sources, and M of the targets without labels."""

    x: Tensor
    """`(N, ...)`"""
    y: Tensor
    """`(N,)` labels."""
    domain: Tensor
    """`(N,)` int64: the number of the source."""
    index: Tensor  # type: ignore[assignment] # hides tuple.index
    """`(N,)` int64: rows of the training part."""
    target_x: Tensor
    """`(M, ...)`; M is 0 where nothing adapts."""
    clock: Clock


def pool_of(data: Dataset, domain: Tensor, balance: Balance) -> Tensor:
    """The number, from 0, of the pool of each example `(N,)`; a batch has as many of each pool."""
    pools = {"domains": domain, "examples": torch.zeros_like(domain)}
    found: Tensor = pools.get(balance, domain * len(data.classes) + data.targets).unique(return_inverse=True)[1]
    return found


def share_in_data(data: Dataset, domain: Tensor, balance: Balance) -> Tensor:
    """How many times as often as in batches an example is in the data, `(N,)`: means over both agree with it."""
    pool = pool_of(data, domain, balance)
    sizes = pool.bincount()
    return sizes[pool] * (len(sizes) / len(pool))


class DomainBatches(Source):
    """Batches of several domains, drawn at random with replacement.

    Args:
        data: the training examples of all sources.
        domain: the number of each one's source, `(N,)`.
        target_x: examples of the targets without labels, `(M, ...)`; none where nothing adapts.
        batch_size: examples per batch, of all sources together; as many of the targets as of one source.
        balance: whether a batch has as many examples of each domain, or of each class of each domain ("groups"), or
            draws from all "examples" alike.
        transform: changes the images of sources and targets.
        seed: of the batches.
    """

    x: Tensor
    y: Tensor
    domain: Tensor
    target_x: Tensor
    rows: Tensor
    target_rows: Tensor

    def __init__(
        self,
        data: Dataset,
        domain: Tensor,
        target_x: Tensor,
        batch_size: int,
        *,
        balance: Balance = "domains",
        transform: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        found = pool_of(data, domain, balance)
        self.pools = [(found == pool).nonzero()[:, 0].numpy() for pool in range(int(found.max()) + 1)]
        self.each, self.transform = max(1, round(batch_size / len(self.pools))), transform
        n_targets = max(1, round(batch_size / len(domain.unique()))) if len(target_x) else 0
        for name, value in (("x", data.x), ("y", data.targets), ("domain", domain), ("target_x", target_x)):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("rows", torch.zeros(self.each * len(self.pools), dtype=torch.int64))
        self.register_buffer("target_rows", torch.zeros(n_targets, dtype=torch.int64))

    def fingerprint(self) -> str:
        return checksum("", {"x": self.x, "y": self.y, "domain": self.domain, "target_x": self.target_x})

    def advance(self) -> None:
        chosen = [pool[self.generator.integers(len(pool), size=self.each)] for pool in self.pools]
        self.rows.copy_(torch.from_numpy(np.stack(chosen, 1).ravel()))  # neighbours are of different domains
        if len(self.target_rows):
            targets = self.generator.integers(len(self.target_x), size=len(self.target_rows))
            self.target_rows.copy_(torch.from_numpy(targets))

    def sample(self) -> DomainExamples:
        index = self.rows.clone()
        x, target_x = self.x[index], self.target_x[self.target_rows]
        if self.transform is not None:
            x, target_x = self.transform(x), self.transform(target_x) if len(target_x) else target_x
        return DomainExamples(x, self.y[index], self.domain[index], index, target_x, self.batch_clock)


def _shares(data: Dataset, order: Tensor, n: int) -> tuple[Tensor, ...]:
    """The rows of n domains, in this order.

    Raises:
        ValueError: the data holds no images of classes, or too few for the domains.
    """
    if data.x.dim() != 4 or not data.classes:
        raise ValueError(f"these domains are made of images (N, C, H, W) of classes, not of {tuple(data.x.shape)}")
    found = order.chunk(n)
    if len(found) < n:
        raise ValueError(f"{len(order)} examples are too few for {n} domains")
    return found


def rotated(data: Dataset, angles: tuple[float, ...] = (0, 15, 30, 45, 60, 75), seed: int = 0) -> Domains:
    """Each image in one domain, turned by its angle in degrees: Rotated MNIST (Ghifary et al. 2015), if it is MNIST."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(data)))
    parts = {}
    for angle, rows in zip(angles, _shares(data, order, len(angles)), strict=True):
        part = data.take(rows)
        parts[f"{angle:g}"] = replace(part, x=rotate(part.x, torch.full((len(part),), float(angle))))
    return Domains(parts, (f"{angles[-1]:g}",))


def coloured(
    data: Dataset, flips: tuple[float, ...] = (0.2, 0.1, 0.9), label_noise: float = 0.25, seed: int = 0
) -> Domains:
    """Coloured MNIST (Arjovsky et al. 2019, arXiv:1907.02893): digits below 5 against the others, red or green.

    A quarter of the labels is flipped; the colour is the label, flipped with another probability in each domain. In the
    target, the last one, colours mislead. Images are `(N, 2, H, W)`, ink in one of both channels.
    """
    generator = np.random.default_rng(seed)
    order, parts = torch.from_numpy(generator.permutation(len(data))), {}
    for flip, rows in zip(flips, _shares(data, order, len(flips)), strict=True):
        part = data.take(rows)
        label = (part.targets >= 5) ^ torch.from_numpy(generator.random(len(part)) < label_noise)
        colour = label ^ torch.from_numpy(generator.random(len(part)) < flip)
        ink = part.x.mean(1)
        x = torch.stack([torch.where(colour[:, None, None], 0.0, ink), torch.where(colour[:, None, None], ink, 0.0)], 1)
        parts[f"{1 - flip:.0%}"] = Dataset(x, label.long(), ("0 to 4", "5 to 9"))
    return Domains(parts, (f"{1 - flips[-1]:.0%}",))


def on_backgrounds(data: Dataset, agrees: tuple[float, float] = (0.95, 0.5), seed: int = 0) -> Domains:
    """Planted groups, in the manner of Waterbirds (Sagawa et al. 2020, arXiv:1911.08731): backgrounds tell the class.

    Digits below 5 stand on water and the others on land, in a share of the images that `agrees` has for the sources and
    for the targets, which are half of the data each. Those of the usual and of the other background are a domain each,
    so that a class of a domain is a group. Images are `(N, 3, H, W)`, ink white before waves, blue and level or green
    and upright.
    """
    generator = np.random.default_rng(seed)
    order, parts = torch.from_numpy(generator.permutation(len(data))), {}
    for name, share, rows in zip(("train", "test"), agrees, _shares(data, order, 2), strict=True):
        part = data.take(rows)
        label, n = part.targets >= 5, len(part)
        usual = torch.from_numpy(generator.random(n) < share)
        land = (label == usual)[:, None, None]
        start, length = torch.from_numpy(generator.uniform((0.0, 0.1), (1.0, 0.3), (n, 2))).float().T[..., None, None]
        height, width = torch.arange(part.x.shape[-2])[:, None], torch.arange(part.x.shape[-1])[None]
        waves = 0.7 + 0.3 * (2.0 * torch.pi * (length * torch.where(land, width, height) + start)).sin()  # (N, H, W)
        green, blue = torch.tensor([[0.2, 0.5, 0.1], [0.1, 0.3, 0.7]], dtype=part.x.dtype)
        colour = torch.where(land[..., None], green, blue)
        back, ink = waves[:, None] * colour.movedim(-1, 1), part.x.mean(1, keepdim=True)
        whole = Dataset(ink + (1.0 - ink) * back, label.long(), ("0 to 4", "5 to 9"))
        parts[f"{name} usual"] = whole.take(usual.nonzero()[:, 0])
        parts[f"{name} odd"] = whole.take((~usual).nonzero()[:, 0])
    return Domains(parts, ("test usual", "test odd"))


def rotated_digits() -> Domains:
    """Domains: the digits turned by 0 to 75 degrees; the last are the target."""
    return rotated(DATASETS["digits"]())


def coloured_digits() -> Domains:
    """Domains: the digits in colours that say the label in 80%, 90% and, in the target, 10%."""
    return coloured(DATASETS["digits"]())


DOMAINS: dict[str, Callable[[], Domains]] = {"rotated_digits": rotated_digits, "coloured_digits": coloured_digits}
"""By name, for `data=` of a learner from domains."""


def domains(data: Any) -> Domains:
    """Domains by a name of `DOMAINS`, as they are, or of a mapping from names to `Dataset`s; other data is one domain.

    Raises:
        ValueError: what `Domains` and `agentlib.data.dataset` raise.
    """
    if isinstance(data, Domains):
        return data
    if isinstance(data, str) and data in DOMAINS:
        return DOMAINS[data]()
    if isinstance(data, Mapping) and all(isinstance(part, Dataset) for part in data.values()):
        return Domains(data)
    if isinstance(data, str) and (close := close_matches(data, DOMAINS)) and data not in DATASETS:
        raise ValueError(f"unknown domains {shown(data)}{close}")
    return Domains({data if isinstance(data, str) else "all": dataset(data).with_classes()})
