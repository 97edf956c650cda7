"""Learning distributions, and drawing from them."""

from agentlib.learners.generative.diffusion import Diffusion, DiffusionConfig
from agentlib.learners.generative.gan import GAN, GANConfig
from agentlib.learners.generative.vae import VAE, VAEConfig
from agentlib.learners.generative.wgan import WGAN, WGANConfig

__all__ = ["GAN", "VAE", "WGAN", "Diffusion", "DiffusionConfig", "GANConfig", "VAEConfig", "WGANConfig"]
