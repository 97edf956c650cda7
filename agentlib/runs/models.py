"""Trained networks that are no agents, each in one safe file: generators, autoencoders, features, fast learners."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agentlib.backbones import spec_of
from agentlib.backbones.files import read, rebuilt, write
from agentlib.backbones.pixels import PixelNetwork
from agentlib.backbones.specs import Classes
from agentlib.policies import POLICIES

KIND, VERSION = "agentlib model", 1


def save_model(model: nn.Module, path: str | Path, about: Mapping[str, Any] | None = None) -> Path:
    """Writes a network to one file, whole or not at all, with JSON-able notes of how it was trained; returns its path.

    Raises:
        ValueError: the network has no spec, so that it could not be built again.
    """
    description = {"file": KIND, "version": VERSION, "model": spec_of(model), "about": dict(about or {})}
    return write(path, model, description)


def load_model(
    path: str | Path, classes: Classes | None = None, device: torch.device | str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """The network in a file that a run or `save_model` wrote, in eval mode, and its notes. No code of the file is run.

    Args:
        path: the file, or the folder of a run.
        classes: network classes of your own by name, if the network is one of them or has any inside.
        device: where the network shall live.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds no model, is of a newer version, or needs a class that was not given.
    """
    path = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no model file at {path}")
    description, tensors = read(path, KIND, VERSION)
    about = description.get("about")
    if not isinstance(about, dict):
        raise ValueError(f"{path} is damaged: it does not say how the model was trained")
    # Late: a run imports its own learner, and no other.
    from agentlib.learners.generative.cyclegan import Cycle
    from agentlib.learners.generative.denoising_autoencoder import Autoencoder
    from agentlib.learners.generative.infogan import CodedGenerator
    from agentlib.learners.generative.latent_model import LatentModel
    from agentlib.learners.generative.pixel_model import PixelModel
    from agentlib.learners.language.captioner import Captioner
    from agentlib.learners.language.elmo import BidirectionalLanguageModel
    from agentlib.learners.language.language_model import LanguageModel
    from agentlib.learners.language.masked_model import MaskedLanguageModel
    from agentlib.learners.language.translator import Translator
    from agentlib.learners.meta.prototypical import PrototypicalNetwork
    from agentlib.learners.self_supervised.clip import PicturesAndText
    from agentlib.learners.self_supervised.mae import MaskedAutoencoder
    from agentlib.learners.self_supervised.simclr import Projector
    from agentlib.learners.vision.detector import Detector
    from agentlib.learners.vision.localization import Localizer

    networks: tuple[Any, ...] = (
        Autoencoder,
        CodedGenerator,
        Cycle,
        LanguageModel,
        LatentModel,
        Projector,
        PrototypicalNetwork,
    )
    networks += (MaskedAutoencoder, PixelNetwork, PixelModel, Detector, Localizer, Translator, MaskedLanguageModel)
    networks += (BidirectionalLanguageModel, PicturesAndText, Captioner)
    known = POLICIES | {each.kind: each for each in networks}
    return rebuilt(path, description.get("model"), tensors, known | dict(classes or {})).to(device), about
