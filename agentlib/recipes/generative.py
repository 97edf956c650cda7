"""Generative models, put together."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones import (
    MLP,
    Critic,
    DiffusionModel,
    Generator,
    MLPDecoder,
    MLPDenoiser,
    UNetDenoiser,
    adam,
)
from agentlib.backbones.randomness import host_generator_kept
from agentlib.data import Batches, Dataset, Splits
from agentlib.evaluation import sample_pictures
from agentlib.evaluation.likelihoods import independent_bernoulli, probabilistic_pca
from agentlib.learners.generative.diffusion import Diffusion, DiffusionConfig, one_hot
from agentlib.learners.generative.gan import GAN, GANConfig
from agentlib.learners.generative.vae import VAE, LatentModel, VAEConfig, bounds
from agentlib.learners.generative.wgan import WGAN, WGANConfig
from agentlib.recipes.backbones import BackboneChoice, backbone_for
from agentlib.recipes.generated import SHOWN, Judge, classes_of, drawn, parts_of
from agentlib.recipes.problem import Job, Problem, Recipe, Reference, choose_device, fresh_weights

IMPORTANCE_SAMPLES = 64
"""Codes per example of the final bound."""
SMALL_IMAGE = 64
"""Images of more pixels than this get a U-Net, where nothing else is asked for."""


def build_vae(
    config: VAEConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A VAE of a data set; the backbone is its encoder.

    Raises:
        ValueError: no data, or examples that are no bits under the Bernoulli likelihood.
    """
    splits = Splits(*(_bits(part, config) for part in parts_of(problem, "vae", seed, config.validation)))
    shape = splits.train.x.shape[1:]
    with fresh_weights(seed):
        if isinstance(backbone, str) and backbone in ("auto", "mlp"):
            encoder: nn.Module = MLP(math.prod(shape), config.net_arch, "tanh")
        else:
            encoder = backbone_for(spaces.Box(0.0, 1.0, tuple(shape)), backbone)
        decoder = MLPDecoder(config.latent_dim, shape, config.net_arch[::-1], "tanh")
        deviation = float(splits.train.x.std())  # where to start from: it takes long to learn another order of size
        model = LatentModel(encoder, decoder, config.latent_dim, config.likelihood, deviation)
    model.to(choose_device(device, model))
    source = Batches(splits.train, config.batch_size, seed=seed)
    pictures = _VAEPictures(model, splits, seed)
    return Job(
        learner=VAE(model, adam(config.learning_rate), config),
        source=source.to(_device(model)),
        updates=_steps(problem),
        steps=_steps(problem),
        product=lambda: model,
        evaluate=(lambda: _likelihoods(model, splits.validation.x, "eval", 1, seed)) if config.validation else None,
        objective="eval/negative_elbo",
        lower_is_better=True,
        finish=lambda: _likelihoods(model, splits.test.x, "test", IMPORTANCE_SAMPLES, seed),
        references=_likelihood_references(config, splits),
        pictures=pictures.draw,
    )


def _bits(data: Dataset, config: VAEConfig) -> Dataset:
    x = data.x if config.threshold is None else (data.x >= config.threshold).float()
    if config.likelihood == "bernoulli":
        odd = (x != 0.0) & (x != 1.0)
        if bool(odd.any()):
            raise ValueError(
                f"the Bernoulli likelihood is one of zeros and ones, and the data has {float(x[odd][0]):.3g}: give "
                f'threshold=0.5 to make bits of grey values, or likelihood="gaussian"'
            )
    return dataclasses.replace(data, x=x)


@torch.no_grad()
def _likelihoods(model: LatentModel, x: Tensor, part: str, k: int, seed: int) -> dict[str, float]:
    """Bounds of the mean log likelihood, in nats per example, by a generator that starts anew each time."""
    device = _device(model)
    with host_generator_kept([device] if device.type == "cuda" else []):
        torch.random.manual_seed(seed)
        pieces = [bounds(model, piece.to(device)) for piece in x.split(1000)]
        elbo, kl = (torch.cat(values).double().mean().item() for values in zip(*pieces, strict=True))
        found = {f"{part}/negative_elbo": -elbo, f"{part}/kl": kl}
        if k > 1:
            tight = torch.cat([bounds(model, piece.to(device), k)[0] for piece in x.split(100)])
            found = {f"{part}/nats": -tight.double().mean().item()} | found
    return found


def _likelihood_references(config: VAEConfig, splits: Splits) -> dict[str, Reference]:
    train, test = splits.train.x, splits.test.x
    if config.likelihood == "bernoulli":
        value = -float(independent_bernoulli(train, test).mean())
        return {"test/nats": Reference(value, "pixels that know nothing of each other; less is better")}
    if config.latent_dim >= math.prod(train.shape[1:]):
        return {}
    value = -float(probabilistic_pca(train, test, config.latent_dim).mean())
    return {"test/nats": Reference(value, f"the best linear model with {config.latent_dim} codes; less is better")}


class _VAEPictures:
    def __init__(self, model: LatentModel, splits: Splits, seed: int) -> None:
        self.model, self.splits, self.seed = model, splits, seed

    @torch.no_grad()
    def draw(self, folder: Path) -> list[Path]:
        judge = Judge(None, self.splits, drawn(self.model.sample, lambda: _device(self.model), self.seed), False)
        if not judge.is_image or not (files := judge.pictures(folder)):
            return judge.pictures(folder)
        originals = self.splits.test.x[: SHOWN // 2].to(_device(self.model))
        rebuilt = self.model.decode(self.model.encode(originals)[0])
        pairs = torch.stack([originals, rebuilt], 1).flatten(0, 1)  # side by side
        figure = sample_pictures.image_grid(pairs.cpu(), title="held-out images, each beside its reconstruction")
        return [*files, sample_pictures.save(figure, folder / "reconstructions.png")]


def build_gan(
    config: GANConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A GAN of a data set, conditional if it is to be; the backbone is the discriminator's.

    Raises:
        ValueError: no data, or no labels for a conditional one.
    """
    splits = parts_of(problem, "gan", seed)
    n_classes = classes_of(splits.train, "gan") if config.conditional else 0
    with fresh_weights(seed):
        generator = _generator(splits.train, config.latent_dim, config.net_arch, n_classes)
        network = _critic_backbone(splits.train, backbone, config.net_arch, dropout=config.dropout)
        discriminator = Critic(network, n_classes)
    discriminator.to(choose_device(device, discriminator))
    generator.to(_device(discriminator))
    learner = GAN(generator, discriminator, adam(config.learning_rate, config.adam_betas), config)
    source = Batches(splits.train, config.batch_size, seed=seed).to(_device(discriminator))
    return _adversarial(learner, source, learner.average.network, problem, splits, config.conditional, seed)


def build_wgan(
    config: WGANConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A Wasserstein GAN of a data set; the backbone is the critic's.

    Raises:
        ValueError: no data, or spectral normalization of a critic that was built without.
    """
    splits = parts_of(problem, "wgan", seed)
    spectral = config.constraint == "spectral"
    with fresh_weights(seed):
        generator = _generator(splits.train, config.latent_dim, config.net_arch)
        network = _critic_backbone(splits.train, backbone, config.net_arch, norm="spectral" if spectral else "none")
        critic = Critic(network, spectral=spectral)
    critic.to(choose_device(device, critic))
    generator.to(_device(critic))
    learner = WGAN(generator, critic, adam(config.learning_rate, config.adam_betas), config)
    n = config.critic_steps
    source = Batches(splits.train, config.batch_size, batches_per_update=n, seed=seed).to(_device(critic))
    return _adversarial(learner, source, learner.average.network, problem, splits, False, seed)


def _generator(data: Dataset, latent_dim: int, widths: tuple[int, ...], n_classes: int = 0) -> Generator:
    shape = data.x.shape[1:]
    squash = data.x.dim() == 4  # images lie between 0 and 1
    return Generator(MLPDecoder(latent_dim + n_classes, shape, widths, squash=squash), latent_dim, n_classes)


def _critic_backbone(
    data: Dataset, backbone: BackboneChoice, widths: tuple[int, ...], dropout: float = 0.0, norm: str = "none"
) -> nn.Module:
    shape = tuple(data.x.shape[1:])
    if isinstance(backbone, str) and backbone in ("auto", "mlp"):
        return MLP(math.prod(shape), widths, "leaky_relu" if dropout else "relu", norm=norm, dropout=dropout)
    if norm != "none" and not isinstance(backbone, nn.Module):
        raise ValueError('constraint="spectral" needs backbone="auto", or a module that is built with norm="spectral"')
    return backbone_for(spaces.Box(0.0, 1.0, shape), backbone)


def _adversarial(
    learner: GAN | WGAN,
    source: Batches,
    generator: nn.Module,
    problem: Problem,
    splits: Splits,
    conditional: bool,
    seed: int,
) -> Job:
    judge = Judge(problem.key, splits, drawn(generator.sample, lambda: _device(generator), seed), conditional)  # type: ignore[arg-type]
    return _judged(learner, source, generator, problem, judge)


def build_diffusion(
    config: DiffusionConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A diffusion model of a data set; the backbone tells the noise.

    Raises:
        ValueError: no data, no labels for a conditional one, or a backbone that is no denoiser.
    """
    splits = parts_of(problem, "diffusion", seed)
    n_classes = classes_of(splits.train, "diffusion") if config.conditional else 0
    shape = tuple(splits.train.x.shape[1:])
    with fresh_weights(seed):
        denoiser = _denoiser(backbone, shape, config.net_arch, n_classes)
        model = DiffusionModel(denoiser, shape, config.noise_steps, config.schedule, config.clip)
    model.standardize(splits.train.x)
    model.to(choose_device(device, model))
    learner = Diffusion(model, adam(config.learning_rate), config, n_classes)
    source = Batches(splits.train, config.batch_size, seed=seed).to(_device(model))
    average: DiffusionModel = learner.average.network  # type: ignore[assignment]
    sample = drawn(average.sample, lambda: _device(average), seed, steps=config.sample_steps)

    def draw(n: int, label: Tensor | None) -> Tensor:
        return sample(n, None if label is None else one_hot(label, n_classes))

    return _judged(learner, source, average, problem, Judge(problem.key, splits, draw, config.conditional))


def _denoiser(
    backbone: BackboneChoice, shape: tuple[int, ...], widths: tuple[int, ...], condition_dim: int
) -> nn.Module:
    if isinstance(backbone, nn.Module):
        return backbone
    is_image = len(shape) == 3
    if backbone == "unet" or (backbone == "auto" and is_image and math.prod(shape[1:]) > SMALL_IMAGE):
        if not is_image:
            raise ValueError(f"a U-Net takes images (C, H, W), and an example of this data is {shape}")
        return UNetDenoiser(shape, condition_dim=condition_dim)
    if backbone not in ("auto", "mlp"):
        raise ValueError(f"diffusion takes backbone auto, mlp, unet, or a module such as MLPDenoiser, not {backbone!r}")
    return MLPDenoiser(shape, widths, condition_dim)


def _judged(learner: Any, source: Batches, model: nn.Module, problem: Problem, judge: Judge) -> Job:
    steps = _steps(problem)
    return Job(
        learner=learner,
        source=source,
        updates=steps,
        steps=steps,
        product=lambda: model,
        finish=judge.measures,
        references=judge.references(),
        pictures=judge.pictures,
    )


def _steps(problem: Problem) -> int:
    if not isinstance(problem.steps, int) or problem.steps < 1:
        raise ValueError(f"how long? give steps, the number of updates, a whole number, not {problem.steps}")
    return problem.steps


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


RECIPES = (
    Recipe(
        "vae",
        VAEConfig,
        build_vae,
        "variational autoencoder (Kingma & Welling 2014): codes, likelihoods, samples",
        learns_from="examples",
        needs=("data",),
        steps=5_000,
    ),
    Recipe(
        "gan",
        GANConfig,
        build_gan,
        "generative adversarial network (Goodfellow et al. 2014), plain or conditional",
        learns_from="examples",
        needs=("data",),
        steps=6_000,
    ),
    Recipe(
        "wgan",
        WGANConfig,
        build_wgan,
        "Wasserstein GAN (Arjovsky et al. 2017) by gradient penalty, clipping or spectral norm",
        learns_from="examples",
        needs=("data",),
        steps=4_000,
    ),
    Recipe(
        "diffusion",
        DiffusionConfig,
        build_diffusion,
        "denoising diffusion (Ho et al. 2020), plain or conditional",
        learns_from="examples",
        needs=("data",),
        steps=6_000,
    ),
)
