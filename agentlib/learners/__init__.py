"""One file per algorithm, in a folder per family."""

from agentlib.learners.generative import (
    GAN,
    VAE,
    WGAN,
    Diffusion,
    DiffusionConfig,
    GANConfig,
    VAEConfig,
    WGANConfig,
)
from agentlib.learners.imitation import (
    BC,
    BCConfig,
    DAggerConfig,
    DecisionTransformer,
    DecisionTransformerConfig,
    DiffusionBC,
    DiffusionBCConfig,
)
from agentlib.learners.meta import MAML, MAMLConfig, Prototypical, PrototypicalConfig
from agentlib.learners.q_learning import DQN, DQNConfig, RecurrentDQN, RecurrentDQNConfig
from agentlib.learners.robustness import AdversarialTraining, AdversarialTrainingConfig
from agentlib.learners.self_supervised import SimCLR, SimCLRConfig
from agentlib.learners.supervised import Classifier, ClassifierConfig, Regressor, RegressorConfig
from agentlib.training import Learner, Update, run

__all__ = [
    "BC",
    "DQN",
    "GAN",
    "MAML",
    "VAE",
    "WGAN",
    "AdversarialTraining",
    "AdversarialTrainingConfig",
    "BCConfig",
    "Classifier",
    "ClassifierConfig",
    "DAggerConfig",
    "DQNConfig",
    "DecisionTransformer",
    "DecisionTransformerConfig",
    "Diffusion",
    "DiffusionBC",
    "DiffusionBCConfig",
    "DiffusionConfig",
    "GANConfig",
    "Learner",
    "MAMLConfig",
    "Prototypical",
    "PrototypicalConfig",
    "RecurrentDQN",
    "RecurrentDQNConfig",
    "Regressor",
    "RegressorConfig",
    "SimCLR",
    "SimCLRConfig",
    "Update",
    "VAEConfig",
    "WGANConfig",
    "run",
]
