"""A model of Stable-Baselines3 with our hyperparameters. The library is imported only when a model is trained."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from agentlib.backbones.choice import DEFAULT_WIDTHS
from agentlib.backbones.layers import ACTIVATIONS
from agentlib.core.names import close_matches
from agentlib.core.recipe import Recipe
from agentlib.core.spaces import ACTION_MASK, observed_mask
from agentlib.envs.checks import Checks

_REWRITTEN = (
    "net_arch",
    "max_grad_norm",
    "learning_rate",
    "n_critics",
    "n_quantiles",
    "initial_ent_coef",
    "action_noise",
    "action_noise_kind",
    "qf_arch",
    "log_std_init",
)
"""Hyperparameters that SB3 has as well, written in another way."""
_OF_ACTOR_CRITICS = ("vf_arch", "activation", "ortho_init", "normalize", "normalize_reward")
"""The same, of PPO and A2C: arguments of the policy, and of `VecNormalize`."""
_SMALLEST_IMAGE = 36  # pixels; SB3's Nature CNN has no output for less


def algorithm_of(recipe: Recipe, config: Any = None, **run: Any) -> Any:
    """The class of Stable-Baselines3 that is a recipe's counterpart.

    Args:
        recipe: what is trained.
        config: its numbers; by default those of the class.
        run: what else its counterpart depends on: `backbone`, and whether there are `masks`.

    Raises:
        ImportError: it is in sb3-contrib, which is not installed.
        TypeError: it has none.
    """
    import stable_baselines3

    if recipe.sb3 is None:
        raise TypeError(f"Stable-Baselines3 has no counterpart of {recipe.name} to compare with")
    values = vars(recipe.config() if config is None else config) | run
    named = [name for (key, value), name in recipe.sb3.variants.items() if values.get(key) == value]
    if len(named) > 1:
        raise TypeError(f"Stable-Baselines3 has {' and '.join(named)}, and none that is both")
    if run.get("backbone", "auto") != "auto" and ("backbone", run["backbone"]) not in recipe.sb3.variants:
        raise TypeError(f"Stable-Baselines3 has no counterpart of {recipe.name} on the backbone {run['backbone']!r}")
    name = named[0] if named else recipe.sb3.algorithm
    if hasattr(stable_baselines3, name):
        return getattr(stable_baselines3, name)
    try:
        return getattr(import_module("sb3_contrib"), name)
    except ImportError:
        raise ImportError(f"{name} of Stable-Baselines3 is in its second package: pip install sb3-contrib") from None


def unsupported_options(config: Any, algorithm: Any, built_in: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The fields of a config that SB3's class has no counterpart for, where they are not at their default.

    Our defaults are SB3's behaviour, so an untouched field is no difference; nor is one with a value of `built_in`.
    """
    known, usual = {*inspect.signature(algorithm).parameters, *_REWRITTEN}, vars(type(config)()) | dict(built_in)
    if _is_on_policy(algorithm):
        known |= set(_OF_ACTOR_CRITICS)
    if algorithm.__name__ == "QRDQN":
        known.add("distributional")
    return {name: value for name, value in vars(config).items() if name not in known and value != usual[name]}


def sb3_arguments(
    config: Any,
    algorithm: Any,
    observation_space: spaces.Space[Any],
    strict: bool = True,
    built_in: Mapping[str, Any] = {},
    n_envs: int = 1,
) -> dict[str, Any]:
    """The arguments of a class of Stable-Baselines3 that mean what our config says; `strict` refuses what it lacks.

    `policy` is among them: "MultiInputPolicy" for a Dict, "CnnPolicy" for images of at least 36 pixels, "MlpPolicy" for
    all else. Environment, seed and device are the caller's.

    Raises:
        ValueError: if `strict` and the config uses what SB3 lacks, or a schedule follows more than the fraction.
    """
    extra = unsupported_options(config, algorithm, built_in)
    if strict and extra:
        listed = ", ".join(f"{name}={value!r}" for name, value in extra.items())
        raise ValueError(
            f"Stable-Baselines3's {algorithm.__name__} has no {listed}. Leave that out for a fair comparison, or pass "
            "strict=False to compare all the same; the report then lists the difference."
        )
    known = inspect.signature(algorithm).parameters
    arguments = {name: value for name, value in vars(config).items() if name in known}
    arguments["policy"] = _policy(observation_space)
    for name in ("learning_rate", "clip_range", "clip_range_vf"):
        if callable(arguments.get(name)):
            arguments[name] = sb3_schedule(arguments[name])
    if "max_grad_norm" in known:  # SB3 knows no None here; clipping at infinity is none.
        arguments["max_grad_norm"] = math.inf if config.max_grad_norm is None else config.max_grad_norm
    elif config.max_grad_norm is not None:
        raise ValueError(f"Stable-Baselines3's {algorithm.__name__} clips no gradients: leave max_grad_norm out")
    if arguments.get("action_noise"):
        arguments["action_noise"] = config.action_noise_kind, config.action_noise
    if arguments.get("ent_coef") == "auto":
        arguments["ent_coef"] = f"auto_{config.initial_ent_coef}"
    if arguments.get("batch_size", 0) is None:
        arguments["batch_size"] = config.n_steps * n_envs
    if algorithm.__name__ == "RecurrentPPO":
        shape = _lstm_kwargs(config, arguments["policy"])
        arguments["policy"] = arguments["policy"].replace("Policy", "LstmPolicy")
    elif _is_on_policy(algorithm):
        shape = _policy_kwargs(config, arguments["policy"])
    else:
        shape = {}
        if config.net_arch is not None:  # None is the same on both sides: 64 and 64, or nothing behind a CNN
            shape["net_arch"] = list(config.net_arch)
            if getattr(config, "qf_arch", None) is not None:
                shape["net_arch"] = {"pi": [*config.net_arch], "qf": [*config.qf_arch]}
        if "n_critics" not in built_in and hasattr(config, "n_critics"):
            shape["n_critics"] = config.n_critics
        if getattr(config, "use_sde", False):
            shape["log_std_init"] = config.log_std_init
        if getattr(config, "n_quantiles", None) is not None and algorithm.__name__ in ("TQC", "QRDQN"):
            shape["n_quantiles"] = config.n_quantiles
    return arguments | ({"policy_kwargs": shape} if shape else {})


def _is_on_policy(algorithm: Any) -> bool:
    return algorithm.__name__ in ("PPO", "A2C", "MaskablePPO", "RecurrentPPO")


def _policy_kwargs(config: Any, policy: str) -> dict[str, Any]:
    """The arguments of SB3's policy of an actor and a critic, where they are not its defaults."""
    kwargs: dict[str, Any] = {}
    if config.net_arch is not None or config.vf_arch is not None:
        usual = () if policy == "CnnPolicy" else DEFAULT_WIDTHS
        widths = usual if config.net_arch is None else config.net_arch
        kwargs["net_arch"] = {"pi": [*widths], "vf": [*(widths if config.vf_arch is None else config.vf_arch)]}
    if config.activation != "tanh":
        kwargs["activation_fn"] = ACTIVATIONS[config.activation]
    return kwargs | _start_kwargs(config)


def _lstm_kwargs(config: Any, policy: str) -> dict[str, Any]:
    """The arguments of RecurrentPPO's policy that make our networks.

    Raises:
        ValueError: there are layers before the memory, and SB3 has them behind it alone.
    """
    widths = DEFAULT_WIDTHS if config.net_arch is None else config.net_arch
    if len(widths) != 1:
        raise ValueError(f"RecurrentPPO has no layers before its memory: give net_arch one number, not {widths}")
    layers = {"pi": [], "vf": [*(config.vf_arch or ())]}
    kwargs: dict[str, Any] = {"lstm_hidden_size": widths[0], "net_arch": layers, "activation_fn": ACTIVATIONS["relu"]}
    if policy == "CnnPolicy":
        kwargs["features_extractor_kwargs"] = {"features_dim": 256}
    return kwargs | _start_kwargs(config)


def _start_kwargs(config: Any) -> dict[str, Any]:
    """How weights and deviations start, where not as by default."""
    kwargs = {} if config.ortho_init else {"ortho_init": False}
    return kwargs | ({"log_std_init": config.log_std_init} if config.log_std_init else {})


def vector_of(make: Callable[[], gymnasium.Env[Any, Any]], n_envs: int, config: Any) -> Any:
    """The environments of a run of SB3: one as it is, or a `VecEnv`, normalized as the config of PPO or A2C says."""
    rewards = getattr(config, "normalize_reward", None)
    is_normalized = rewards is not None and (config.normalize or rewards)
    if n_envs == 1 and not is_normalized:
        return make()
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    envs = DummyVecEnv([make] * n_envs)
    if not is_normalized:
        return envs
    return VecNormalize(envs, norm_obs=config.normalize, norm_reward=bool(rewards), gamma=config.gamma)


class Acting:
    """A model of SB3 in environments as they are: with its normalization, and with their masks where it takes them.

    Args:
        model: as SB3 trains it.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.policy = model, model.policy
        self.normalization = model.get_vec_normalize_env()
        self.takes_masks = "action_masks" in inspect.signature(model.predict).parameters

    def predict(self, observation: Any, *args: Any, action_mask: Any = None, **kwargs: Any) -> Any:
        """As the model's; a mask goes by our name for it."""
        if self.normalization is not None:
            observation = self.normalization.normalize_obs(observation)
        masks = {"action_masks": action_mask} if self.takes_masks else {}
        return self.model.predict(observation, *args, **kwargs, **masks)


def acting(agent: Any) -> Any:
    """The agent of a side that acts in environments as they are."""
    return Acting(agent) if hasattr(agent, "get_vec_normalize_env") else agent


class WithMask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose last mask of legal actions can be asked for, as sb3-contrib does."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._reader = Checks(env.observation_space, env.action_space)
        self._mask: Any = None

    def reset(self, **kwargs: Any) -> Any:
        """As the environment's own."""
        observation, info = self.env.reset(**kwargs)
        self._mask = mask_in(self._reader, observation, info)
        return observation, info

    def step(self, action: Any) -> Any:
        """As the environment's own."""
        stepped = self.env.step(action)
        self._mask = mask_in(self._reader, stepped[0], stepped[4])
        return stepped

    def action_masks(self) -> Any:
        """The mask `(A,)`."""
        return np.ones(self._reader.width, bool) if self._mask is None else self._mask


def mask_in(reader: Checks, observation: Any, info: dict[str, Any]) -> Any:
    """The mask `(A,)` of legal actions in an observation or an info; None if there is none."""
    if reader.masks_observed:
        return observed_mask(observation, reader.width, 0)
    return reader.one(info[ACTION_MASK]) if ACTION_MASK in info and reader.width else None


def lacks_space(space: spaces.Space[Any]) -> bool:
    """Whether SB3 knows no such observations: tuples, and dictionaries within dictionaries."""
    if isinstance(space, spaces.Dict):
        return any(isinstance(part, (spaces.Dict, spaces.Tuple)) for part in space.values())
    return isinstance(space, spaces.Tuple)


def import_sb3() -> None:
    """Import Stable-Baselines3 and all that it imports late, so that no timing has imports in it.

    Raises:
        ImportError: naming the extra to install.
    """
    try:
        import stable_baselines3  # noqa: F401
    except ImportError as error:
        raise ImportError("the comparison needs Stable-Baselines3: pip install 'agentlib-rl[sb3]'") from error
    import torch

    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # torch imports its compiler with the first optimizer


def train_sb3(
    algorithm: Any,
    arguments: dict[str, Any],
    env: Any,
    *,
    steps: int,
    seed: int,
    device: str = "auto",
    progress: bool = True,
    check_every: int | None = None,
    check: Callable[[Any], bool] | None = None,
) -> Any:
    """Trains a model of SB3 with arguments from `sb3_arguments`, in environments (see `vector_of`) that stay open.

    Every `check_every` steps `check` is called with the model; the run ends where it returns False.

    SB3 rounds steps up to a whole number of rollouts, and seeds the global generators: see `global_generators_kept`.
    """
    from stable_baselines3.common.callbacks import BaseCallback
    from tqdm import tqdm

    arguments = dict(arguments)

    class Bar(BaseCallback):
        """SB3's own bar needs rich; this one looks like ours."""

        def _on_training_start(self) -> None:
            self.bar = tqdm(total=steps, desc=f"Stable-Baselines3, seed {seed}", unit="step", disable=not progress)

        def _on_step(self) -> bool:
            if self.num_timesteps % 100 == 0:
                self.bar.update(min(self.num_timesteps, steps) - self.bar.n)
            is_due = check_every is not None and self.num_timesteps % check_every < self.training_env.num_envs
            return not is_due or check is None or check(self.model)

        def _on_training_end(self) -> None:
            self.bar.update(steps - self.bar.n)
            self.bar.close()

    if noise := arguments.pop("action_noise", None):
        kind, std = noise
        arguments["action_noise"] = sb3_noise(kind, std, env.action_space)
    model = algorithm(env=env, seed=seed, device=device, verbose=0, **arguments)
    return model.learn(total_timesteps=steps, callback=Bar() if progress or check is not None else None)


def sb3_noise(kind: str, std: float, action_space: spaces.Space[Any]) -> Any:
    """Noise of SB3 on actions, for SB3 between -1 and 1, of a kind that the zoo names.

    Raises:
        ValueError: an unknown kind.
    """
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    kinds = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}
    if kind not in kinds:
        raise ValueError(f"unknown noise_type {kind!r}{close_matches(kind, list(kinds))}")
    zeros = np.zeros(action_space.shape or ())
    return kinds[kind](mean=zeros, sigma=zeros + std)


def _policy(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3
    return "CnnPolicy" if image and sorted(space.shape or ())[1] >= _SMALLEST_IMAGE else "MlpPolicy"


def sb3_schedule(schedule: Callable[[Any], Any]) -> Callable[[float], float]:
    """A schedule of ours, which follows a clock, as SB3 takes it: a function of the share of the run that is left.

    Raises:
        ValueError: it follows more than the fraction of the run.
    """
    from agentlib.core import Clock

    def rate(remaining: float) -> float:
        unknown: Any = math.nan  # SB3 tells neither updates nor steps
        value = float(schedule(Clock(updates=unknown, steps=unknown, fraction=1.0 - remaining)))
        if math.isnan(value):
            raise ValueError("Stable-Baselines3 takes a learning rate that follows the fraction of the run alone")
        return value

    rate(0.5)  # an unfit schedule is refused now, not in mid-run
    return rate
