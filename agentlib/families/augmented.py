"""Random changes of images as fields of a config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from agentlib.backbones import Optimized
from agentlib.core.config import NonNegative, Range, Unit, Whole
from agentlib.data.augmentation import (
    Augmentation,
    Change,
    RandomCrop,
    RandomFlip,
    RandomLight,
    RandomNoise,
    RandomRotation,
    RandomShift,
)
from agentlib.data.auto_augment import AugMix, AutoAugment
from agentlib.data.colours import RandomColour, RandomGrey
from agentlib.data.mixing import PixMix, RandomCutout

Operations = Literal["cifar10", "imagenet", "svhn", "augmix", "pixmix"]


@dataclass(frozen=True, kw_only=True)
class Augmented(Optimized):
    """Changes of the images of a batch, each image with numbers of its own; by default there are none."""

    crop: Annotated[float, Range(0.01, 1)] = 1.0
    """Smallest share of the image's area that a random crop keeps; 1 disables cropping."""
    flip: bool = False
    """Flip half of the images horizontally."""
    shift: Whole = 0
    """Shift images by up to this number of pixels, in each direction."""
    rotation: NonNegative = 0.0
    """Rotate images by up to this number of degrees, either way."""
    augment: Operations | None = None
    """Several operations at random: AutoAugment's for "cifar10", "imagenet" or "svhn"; "augmix"; or "pixmix"."""
    brightness: NonNegative = 0.0
    """Largest change of the brightness of an image; pixels are between 0 and 1."""
    contrast: Unit = 0.0
    """Largest relative change of the contrast of an image."""
    saturation: Unit = 0.0
    """Largest relative change of the saturation of colours."""
    hue: Annotated[float, Range(0, 0.5)] = 0.0
    """Largest turn of the hue, as a share of the circle of hues."""
    grey: Unit = 0.0
    """Share of the images that lose their colours."""
    noise: NonNegative = 0.0
    """Standard deviation of the Gaussian noise on each pixel."""
    cutout: Whole = 0
    """Side in pixels of a square that is set to zero, at a random place."""

    def augmentation(self) -> Augmentation:
        """All changes, one after the other."""
        return Augmentation(*self.changes())

    def changes(self, with_operations: bool = True) -> list[Change]:
        """The changes: of places, then those of `augment`, which are of images between 0 and 1, then of values."""
        light, colour = RandomLight(self.brightness, self.contrast), RandomColour(self.hue, self.saturation)
        moves: list[tuple[bool, Change]] = [
            (self.crop < 1.0, RandomCrop(self.crop)),
            (self.flip, RandomFlip()),
            (self.shift > 0, RandomShift(self.shift)),
            (self.rotation > 0.0, RandomRotation(self.rotation)),
        ]
        values: list[tuple[bool, Change]] = [
            (self.brightness > 0.0 or self.contrast > 0.0, light),
            (self.saturation > 0.0 or self.hue > 0.0, colour),
            (self.grey > 0.0, RandomGrey(self.grey)),
            (self.noise > 0.0, RandomNoise(self.noise)),
            (self.cutout > 0, RandomCutout(self.cutout)),
        ]
        between = [(True, operations(self.augment))] if self.augment is not None and with_operations else []
        return [change for is_on, change in (*moves, *between, *values) if is_on]


def operations(name: Operations) -> Change:
    """The change that `augment` names."""
    if name in ("augmix", "pixmix"):
        return AugMix() if name == "augmix" else PixMix()
    return AutoAugment(name)  # type: ignore[arg-type]
