"""Every learner by name. Nothing is imported before it is asked for."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlib.core.names import LONGEST, close_matches, shown

if TYPE_CHECKING:
    from agentlib.backbones.specs import Described
    from agentlib.core.recipe import Recipe

LEARNERS: dict[str, tuple[str, str]] = {
    "dqn": ("q_learning.dqn:RECIPE", "deep Q-learning (Mnih et al. 2015), discrete actions"),
    "rainbow": ("q_learning.dqn:RAINBOW", "dqn with all its options on (Hessel et al. 2018)"),
    "cql": (
        "q_learning.dqn:CQL",
        "conservative Q-learning (Kumar et al. 2020) from recorded episodes with rewards; discrete actions",
    ),
    "recurrent_dqn": (
        "q_learning.recurrent_dqn:RECIPE",
        "deep Q-learning with memory (Kapturowski et al. 2019), discrete actions",
    ),
    "q_table": (
        "q_learning.q_table:RECIPE",
        "Q-learning with a table (Watkins 1989), observations and actions that can be counted",
    ),
    "sac": ("actor_critic.sac:RECIPE", "soft actor-critic (Haarnoja et al. 2018), real-valued actions"),
    "tqc": ("actor_critic.sac:TQC", "sac with truncated quantiles of the return as critics (Kuznetsov et al. 2020)"),
    "droq": (
        "actor_critic.sac:DROQ",
        "sac with dropout and layer normalization in its critics, many updates (Hiraoka et al. 2022)",
    ),
    "crossq": (
        "actor_critic.sac:CROSSQ",
        "sac without target networks, with batch renormalization in its critics (Bhatt et al. 2024)",
    ),
    "discrete_sac": (
        "actor_critic.discrete_sac:RECIPE",
        "soft actor-critic for discrete actions (Christodoulou 2019)",
    ),
    "td3": ("actor_critic.td3:RECIPE", "twin delayed DDPG (Fujimoto et al. 2018), real-valued actions"),
    "ddpg": (
        "actor_critic.td3:DDPG",
        "td3 with one critic, without delay and noise on targets (Lillicrap et al. 2016)",
    ),
    "td3_bc": (
        "actor_critic.td3:TD3_BC",
        "td3 near recorded actions (Fujimoto and Gu 2021), from episodes with rewards; real-valued actions",
    ),
    "iql": (
        "actor_critic.iql:RECIPE",
        "implicit Q-learning (Kostrikov et al. 2022) from recorded episodes with rewards; any actions",
    ),
    "ppo": ("actor_critic.ppo:RECIPE", "proximal policy optimization (Schulman et al. 2017), any actions"),
    "a2c": ("actor_critic.a2c:RECIPE", "advantage actor-critic (Mnih et al. 2016), any actions"),
    "bc": ("imitation.bc:RECIPE", "behavioural cloning (Pomerleau 1991), copies demonstrations; any actions"),
    "dagger": (
        "imitation.dagger:RECIPE",
        "DAgger (Ross et al. 2011), asks an expert about its own states; any actions",
    ),
    "decision_transformer": (
        "imitation.decision_transformer:RECIPE",
        "decision transformer (Chen et al. 2021), clones episodes of the return that is asked for; any actions",
    ),
    "diffusion_bc": (
        "imitation.diffusion_bc:RECIPE",
        "cloning by diffusion (Chi et al. 2023): keeps several ways to act apart; real-valued actions",
    ),
    "classifier": ("supervised.classifier:RECIPE", "softmax classification, from logistic regression to deep networks"),
    "regressor": ("supervised.regressor:RECIPE", "regression of numbers by squared or absolute errors"),
    "continual": (
        "supervised.continual:RECIPE",
        "classification of one task after the other: replay, elastic weights (Kirkpatrick et al. 2017)",
    ),
    "adversarial": (
        "robustness.adversarial_training:RECIPE",
        "a classifier that withstands attacks (Madry et al. 2018)",
    ),
    "detection": ("vision.detection:RECIPE", "boxes and classes of objects in two stages (Ren et al. 2015)"),
    "localization": (
        "vision.localization:RECIPE",
        "class and box of the one object of a picture, by an overlap that has a gradient (Rezatofighi et al. 2019)",
    ),
    "segmentation": (
        "vision.segmentation:RECIPE",
        "the class of each pixel by a U-Net (Ronneberger et al. 2015), cross-entropy and Dice",
    ),
    "depth": ("vision.depth:RECIPE", "the depth of each pixel from one image (Eigen et al. 2014)"),
    "domains": (
        "domains.domain_classifier:RECIPE",
        "a classifier for domains that it has not seen: DANN, CORAL, IRM, group DRO and others as options",
    ),
    "vae": (
        "generative.vae:RECIPE",
        "variational autoencoder (Kingma & Welling 2014): codes, likelihoods, samples",
    ),
    "gan": (
        "generative.gan:RECIPE",
        "generative adversarial network (Goodfellow et al. 2014), plain or conditional",
    ),
    "infogan": (
        "generative.infogan:RECIPE",
        "a GAN with codes that mean something, found without labels (Chen et al. 2016)",
    ),
    "cyclegan": (
        "generative.cyclegan:RECIPE",
        "two kinds of examples turned into each other, without pairs (Zhu et al. 2017)",
    ),
    "wgan": (
        "generative.wgan:RECIPE",
        "Wasserstein GAN (Arjovsky et al. 2017) by gradient penalty, clipping or spectral norm",
    ),
    "diffusion": ("generative.diffusion:RECIPE", "denoising diffusion (Ho et al. 2020), plain or conditional"),
    "pixel_cnn": (
        "generative.pixel_cnn:RECIPE",
        "images pixel after pixel (van den Oord et al. 2016): exact likelihoods, of bits or levels",
    ),
    "denoising_autoencoder": (
        "generative.denoising_autoencoder:RECIPE",
        "denoising autoencoder (Vincent et al. 2008): codes and scores by removing noise",
    ),
    "simclr": (
        "self_supervised.simclr:RECIPE",
        "contrastive learning of features without labels (Chen et al. 2020), images",
    ),
    "byol": ("self_supervised.byol:RECIPE", "features that predict their own average (Grill et al. 2020), images"),
    "moco": (
        "self_supervised.moco:RECIPE",
        "features that tell a view from a queue of others (He et al. 2020), images",
    ),
    "rotation": (
        "self_supervised.rotation:RECIPE",
        "features that know by which angle an image was turned (Gidaris et al. 2018), images",
    ),
    "cpc": (
        "self_supervised.cpc:RECIPE",
        "features by which the next part or frame is predicted (van den Oord et al. 2018), images",
    ),
    "context": (
        "self_supervised.context:RECIPE",
        "features that know where parts of an image lie (Doersch et al. 2015), images",
    ),
    "dino": (
        "self_supervised.dino:RECIPE",
        "features that agree with their own average on all views (Caron et al. 2021), images",
    ),
    "mae": (
        "self_supervised.mae:RECIPE",
        "features by which hidden patches are predicted (He et al. 2022), images, a vision transformer",
    ),
    "clip": (
        "self_supervised.clip:RECIPE",
        "features of pictures by their captions, classes from descriptions (Radford et al. 2021)",
    ),
    "captions": (
        "language.captions:RECIPE",
        "captions of pictures, word by word, and where each word looks (Vinyals et al. 2015; Xu et al. 2015)",
    ),
    "maml": ("meta.maml:RECIPE", "model-agnostic meta-learning (Finn et al. 2017), regression and classification"),
    "reptile": (
        "meta.maml:REPTILE",
        "first-order meta-learning (Nichol et al. 2018), regression and classification",
    ),
    "prototypical": (
        "meta.prototypical:RECIPE",
        "prototypical networks (Snell et al. 2017), classes from few examples",
    ),
    "matching": (
        "meta.prototypical:MATCHING",
        "matching networks (Vinyals et al. 2016), classes by attention to few examples",
    ),
    "black_box": (
        "meta.black_box:RECIPE",
        "a network with memory that learns to learn (Santoro et al. 2016), regression and classification",
    ),
    "gpt": (
        "language.gpt:RECIPE",
        "language model (Radford et al. 2018): predicts the next character, byte or piece of a text",
    ),
    "bert": (
        "language.bert:RECIPE",
        "features of text (Devlin et al. 2019): predicts hidden tokens, and whether a piece follows another",
    ),
    "elmo": (
        "language.elmo:RECIPE",
        "features of text (Peters et al. 2018): predicts the next token, and the one before, by LSTMs",
    ),
    "seq2seq": (
        "language.seq2seq:RECIPE",
        "translation (Vaswani et al. 2017; Luong et al. 2015): from one text to another, by transformer or LSTM",
    ),
    "t5": (
        "language.t5:RECIPE",
        "text to text (Raffel et al. 2020): fills in spans that were cut out, for seq2seq to go on from",
    ),
}
"""By name: where the recipe is, below `agentlib.learners`, and one line about it."""


NOT_HERE = ("trpo",)
"""What people ask for, and other libraries have."""


def unknown(what: str) -> str:
    """The message about a name that is none of `LEARNERS`."""
    if what.lower() in NOT_HERE:
        return f"{shown(what)} is not here; what Stable-Baselines3 trained becomes an agent by Agent.from_sb3"
    module = what.removesuffix(".py")
    if what.endswith(".py") or Path(f"{module.replace('.', '/')}.py").is_file():
        place = module.replace("/", ".")
        return f"{shown(what)} is a module; a recipe in it is given by its name, such as {place[:LONGEST]}:RECIPE"
    return f"unknown learner {shown(what)}{close_matches(what.lower(), LEARNERS)}"


def recipe_of(what: Any) -> Recipe:
    """The recipe of what is to be trained.

    Args:
        what: a name of `LEARNERS`; a `Recipe`; the place of one, such as "my_module:RECIPE"; or a config, whose recipe
            is in its module.

    Raises:
        ValueError: none of these; the message names close ones.
        ImportError: there is no such module.
    """
    from agentlib.core.recipe import Recipe  # late: it brings torch, and names can be looked up without

    if isinstance(what, Recipe):
        return what
    if isinstance(what, str):
        if ":" not in what and what not in LEARNERS:
            raise ValueError(unknown(what))
        module, _, name = (what if ":" in what else f"agentlib.learners.{LEARNERS[what][0]}").partition(":")
        if not module or module.startswith("."):
            raise ValueError(f"a recipe's place is MODULE:NAME, such as my_module:RECIPE, not {shown(what)}")
        try:
            found = getattr(import_module(module), name, None)
        except ModuleNotFoundError as error:
            raise ImportError(f"{what}: there is no module {error.name} (is its folder on the path?)") from None
        if not isinstance(found, Recipe):
            raise ValueError(f"{what} names no Recipe of the module {module}")
        return found
    for value in vars(sys.modules.get(type(what).__module__, sys)).values():
        if isinstance(value, Recipe) and value.config is type(what):
            return value
    raise ValueError(
        f"what to train is a name ({', '.join(LEARNERS)}), a config such as DQNConfig(...), or a Recipe, "
        f"not {type(what).__name__}"
    )


def networks() -> dict[str, type[Described]]:
    """Networks by the names in their specs: all that the modules of learners define or use."""
    from agentlib.backbones.specs import Described

    modules = [import_module(f"agentlib.learners.{place.partition(':')[0]}") for place, _ in LEARNERS.values()]
    values = [value for module in modules for value in vars(module).values()]
    classes = [each for each in values if isinstance(each, type) and issubclass(each, Described)]
    return {each.kind: each for each in classes if vars(each).get("kind")}


def preset_key(name: str) -> str:
    """The key of the presets for an environment's id or a data set's name."""
    return "atari" if is_atari(name) else "minigrid" if name.startswith("MiniGrid-") else name


def is_atari(env_id: str) -> bool:
    """Whether an id names an Atari game."""
    return env_id.startswith("ALE/") or env_id.endswith("NoFrameskip-v4")
