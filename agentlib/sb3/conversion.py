"""Policies of Stable-Baselines3 on our backbones: DQN, PPO, A2C, SAC, TD3 and DDPG.

The kind of a network is recognized by the names and shapes of its weights. The shapes are compared with those that the
spaces require before a network is built, so that no file can claim a size that its weights do not have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones import MLP, Backbone, Chain, NatureCNN, Nested, OneHot, RunningNorm
from agentlib.backbones.layers import ACTIVATIONS
from agentlib.core.names import LONGEST, one_line, printable
from agentlib.core.randomness import host_generator_kept
from agentlib.core.spaces import choices
from agentlib.policies.continuous import DeterministicPolicy
from agentlib.policies.fitting import policy_for
from agentlib.policies.q_policy import QPolicy
from agentlib.policies.state_dependent_noise import LARGEST_MEAN, StateDependentNoisePolicy
from agentlib.sb3.files import SB3Model, Statistics, read_sb3_file

Layer = tuple[Tensor, Tensor]
"""Weight `(fan_out, fan_in)` and bias."""
EXTRACTORS = ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
NOT_FOR_ACTING = (
    "critic", "value_net.", "vf_features_extractor.", "mlp_extractor.value_net.", "q_net_target.", "actor_target.",
)  # fmt: skip
"""How the names of weights begin that only learning needs."""


def look_at(model: Any) -> SB3Model:
    """The parts of a model in memory that acting needs.

    Its environments' wrappers count: observations are those before `VecTransposeImage`, and `VecNormalize` becomes part
    of the policy.
    """
    observation_space, statistics = model.observation_space, {}
    layer: Any = getattr(model, "env", None)
    while hasattr(layer, "venv"):
        if type(layer).__name__ == "VecTransposeImage":
            observation_space = layer.venv.observation_space
        if type(layer).__name__ == "VecNormalize" and layer.norm_obs:
            each = layer.obs_rms if isinstance(layer.obs_rms, dict) else {None: layer.obs_rms}
            statistics = {
                key: Statistics(
                    # RunningNorm adds 1e-8 again, and leaves a number unscaled where the variance is 0.
                    mean=rms.mean,
                    variance=np.maximum(rms.var + layer.epsilon - 1e-8, 1e-30),
                    count=rms.count,
                    clip=layer.clip_obs,
                )
                for key, rms in each.items()
            }
        layer = layer.venv
    return SB3Model(
        weights=model.policy.state_dict(),
        observation_space=observation_space,
        action_space=model.action_space,
        policy_kwargs=model.policy_kwargs or {},
        exploration_rate=float(getattr(model, "exploration_rate", 0.0)),
        statistics=statistics,
    )


def converted(
    model: Any, observation_space: spaces.Space[Any] | None, action_space: spaces.Space[Any] | None
) -> tuple[nn.Module, SB3Model]:
    """The policy of a model, or of a file, as ours, and what else is known of it; see `Agent.from_sb3`.

    Raises:
        ValueError: a kind of model or network that is not known, or weights that do not fit the spaces.
    """
    if isinstance(model, str | Path):
        read = read_sb3_file(model, observation_space, action_space)
    elif hasattr(model, "policy") and hasattr(model, "policy_kwargs"):
        given: dict[str, Any] = {"observation_space": observation_space, "action_space": action_space}
        read = replace(look_at(model), **{name: space for name, space in given.items() if space is not None})
    else:
        raise TypeError(f"from_sb3 takes a path or a model of Stable-Baselines3, not {type(model).__name__}")
    try:
        with (
            host_generator_kept(),
            torch.device("cpu"),
        ):  # the first weights, which are overwritten, are nobody's to draw
            policy = _Conversion(read).policy()
    except Exception as error:  # whatever the settings in a file lead to
        if not isinstance(model, str | Path):
            raise
        raise ValueError(f"{model}: {one_line(error)}") from error
    for parameter in policy.parameters():  # whatever the host's default dtype
        parameter.data = parameter.data.float()
    return policy.eval(), read


class _Conversion:
    def __init__(self, model: SB3Model) -> None:
        self.model = model
        self.weights = {name: tensor.detach().cpu().float() for name, tensor in model.weights.items()}
        self.used: set[str] = set()
        for name in ("observation_space", "action_space"):
            _refuse_start(name, getattr(model, name))
        extractor = model.policy_kwargs.get("features_extractor_class")
        if extractor is not None and _class_name(extractor) not in EXTRACTORS:
            raise ValueError(f"the features extractor {_class_name(extractor)} is not one of SB3's own: {EXTRACTORS}")

    def policy(self) -> nn.Module:
        if self._any("q_net.q_net."):
            policy = self._dqn()
        elif "action_net.weight" in self.weights:
            policy = self._actor_critic()
        elif self.weights.keys() & {"actor.log_std.weight", "actor.log_std", "actor.mu.0.weight"}:
            policy = self._actor()
        else:
            raise ValueError(
                f"this model is not supported; DQN, PPO, A2C, SAC, TD3 and DDPG are. Its weights: {_some(self.weights)}"
            )
        unknown = [name for name in self.weights if name not in self.used and not name.startswith(NOT_FOR_ACTING)]
        if unknown:
            raise ValueError(f"the policy has parts that SB3's own have not: {_some(unknown)}")
        return policy

    def _dqn(self) -> nn.Module:
        *layers, head = self._linears("q_net.q_net.")
        if not isinstance(self.model.action_space, spaces.Discrete):
            raise ValueError(f"DQN needs a Discrete action space, not {self.model.action_space}")
        backbone = self._backbone("q_net.features_extractor.", layers, "relu")
        self._require(head, int(self.model.action_space.n), backbone)
        policy = QPolicy(backbone, int(self.model.action_space.n))
        assert isinstance(policy.head, nn.Linear)
        self._fill(policy.head, head)
        return policy

    def _actor_critic(self) -> nn.Module:
        extractor = "pi_features_extractor." if self._any("pi_features_extractor.") else "features_extractor."
        # Once more under another name, if the critic shares it; only the critic's, if it does not.
        self.used |= {name for name in self.weights if name.startswith("features_extractor.")}
        layers = [*self._linears("mlp_extractor.shared_net."), *self._linears("mlp_extractor.policy_net.")]
        backbone = self._backbone(extractor, layers, "tanh")
        head = self._layer("action_net")
        space = self.model.action_space
        self._require(head, _outputs_for(space), backbone)
        policy: nn.Module
        if self.weights.get("log_std", head[1]).dim() == 2:
            policy = self._noisy(backbone, "log_std", bool(self.model.policy_kwargs.get("squash_output", False)))
        else:
            policy = policy_for(space, backbone)
            if isinstance(space, spaces.Box):
                _copy(policy.log_std, self._take("log_std"), "log_std")
        self._fill(policy.head, head)
        return policy

    def _actor(self) -> nn.Module:
        """SAC, TD3 or DDPG."""
        space = _box(self.model.action_space)
        is_gaussian, has_sde = "actor.log_std.weight" in self.weights, "actor.log_std" in self.weights
        limit = float(self.model.policy_kwargs.get("clip_mean", 2.0)) if has_sde else 0.0
        if is_gaussian or has_sde:
            layers, head = self._linears("actor.latent_pi."), self._layer("actor.mu.0" if limit > 0 else "actor.mu")
        else:
            *layers, head = self._linears("actor.mu.")
        backbone = self._backbone("actor.features_extractor.", layers, "relu")
        self._require(head, _outputs_for(space), backbone)
        policy: Any
        if is_gaussian:
            policy = policy_for(space, backbone, squashed=True, state_dependent_std=True)
            self._fill(policy.log_std_head, self._layer("actor.log_std"))
        elif has_sde:
            policy = self._noisy(backbone, "actor.log_std", True, limit)
        else:
            policy = DeterministicPolicy(backbone, space, squashed=True)
        self._fill(policy.head, head)
        return policy  # type: ignore[no-any-return]

    def _noisy(self, backbone: nn.Module, name: str, squashed: bool, limit: float = 0.0) -> nn.Module:
        """A policy with gSDE; without it where the settings are not those of our policy."""
        space, log_std = _box(self.model.action_space), self._take(name)
        usual = limit == (LARGEST_MEAN if squashed else 0.0) and not self.model.policy_kwargs.get("use_expln", False)
        if not usual or log_std.shape != (backbone.feature_dim, _outputs_for(space)):
            return DeterministicPolicy(backbone, space, squashed, limit if limit > 0 else None)
        policy = StateDependentNoisePolicy(backbone, space, squashed)
        _copy(policy.log_std, log_std, name)
        return policy

    # Parts ---------------------------------------------------------------------------------------------------------

    def _backbone(self, extractor: str, layers: Sequence[Layer], activation: str) -> nn.Module:
        """Encoders of the observation, and an MLP with these layers; `activation` is the policy's default."""
        space = self.model.observation_space
        encoder: Backbone
        if isinstance(space, spaces.Dict):
            encoder = Nested(
                {key: self._encoder(part, f"{extractor}extractors.{key}.", key) for key, part in space.spaces.items()}
            )
        else:
            encoder = self._encoder(space, extractor, None)
        if not layers:
            return encoder
        given = self.model.policy_kwargs.get("activation_fn")
        self._require(layers[0], len(layers[0][1]), encoder)
        name = activation if given is None else _activation(given)
        mlp = MLP(int(encoder.feature_dim), [len(bias) for _, bias in layers], name)
        for target, layer in zip((m for m in mlp.layers if isinstance(m, nn.Linear)), layers, strict=True):
            self._fill(target, layer)
        return mlp if isinstance(encoder, MLP) else Chain([encoder, mlp])

    def _encoder(self, space: spaces.Space[Any], prefix: str, key: str | None) -> Backbone:
        if isinstance(space, spaces.Discrete):
            return OneHot([int(space.n)])
        if isinstance(space, spaces.MultiDiscrete):
            return OneHot(space.nvec.tolist())
        if not isinstance(space, spaces.Box | spaces.MultiBinary):
            raise ValueError(f"SB3 has no policies for {space}")
        statistics = self.model.statistics.get(key)
        if statistics is not None and (self._is_scaled(space) or self._any(f"{prefix}cnn.")):
            raise ValueError("VecNormalize on images is not supported: the policy divides them by 255 already")
        if isinstance(space, spaces.Box) and self._any(f"{prefix}cnn."):
            return self._cnn(space, prefix)
        flat = MLP(int(np.prod(space.shape)), ())
        if self._is_scaled(space):
            statistics = Statistics(mean=np.zeros(space.shape), variance=np.full(space.shape, 255.0**2 - 1e-8))
        return flat if statistics is None else Chain([_norm(statistics), flat])

    def _cnn(self, space: spaces.Box, prefix: str) -> NatureCNN:
        names = ["cnn.0", "cnn.2", "cnn.4", "linear.0"]
        layers = [self._layer(f"{prefix}{name}") for name in names]
        kernel, (linear, _) = layers[0][0], layers[-1]
        channels_last = space.shape[0] != kernel.shape[1] == space.shape[-1]
        sides = space.shape[:2] if channels_last else space.shape[1:]
        for _, size, stride in NatureCNN.LAYERS:
            sides = tuple((side - size) // stride + 1 for side in sides)
        self._require(layers[-1], len(linear), 64 * int(np.prod(sides)))
        cnn = NatureCNN(space.shape, feature_dim=len(linear), channels_last=channels_last)
        if np.dtype(space.dtype).kind != "f" and not self._is_scaled(space):  # ours divides by 255
            layers[0] = kernel * 255.0, layers[0][1]
        targets = [module for module in (*cnn.convolutions, *cnn.linear) if not isinstance(module, nn.ReLU)]
        for target, layer in zip(targets, layers, strict=True):
            self._fill(target, layer)
        return cnn

    def _is_scaled(self, space: spaces.Space[Any]) -> bool:
        """Whether SB3 divides such observations by 255."""
        if not isinstance(space, spaces.Box) or len(space.shape) != 3 or space.dtype != np.uint8:
            return False
        is_image = not (space.low != 0).any() and not (space.high != 255).any()
        return is_image and bool(self.model.policy_kwargs.get("normalize_images", True))

    def _linears(self, prefix: str) -> list[Layer]:
        """The layers of a Sequential of linear layers with activations in between."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.weight$")
        numbers = sorted(int(found[1]) for name in self.weights if (found := pattern.match(name)))
        if any(after - before != 2 for before, after in pairwise([-2, *numbers])):
            raise ValueError(f"the layers {prefix}* are not linear ones with activations in between, as SB3 makes them")
        return [self._layer(f"{prefix}{i}") for i in numbers]

    def _any(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.weights)

    def _take(self, name: str) -> Tensor:
        if name not in self.weights:
            raise ValueError(f"the policy has no weights {name!r}")
        self.used.add(name)
        return self.weights[name]

    def _layer(self, name: str) -> Layer:
        return self._take(f"{name}.weight"), self._take(f"{name}.bias")

    def _require(self, layer: Layer, fan_out: int, before: nn.Module | int) -> None:
        """That a layer has this width, and fits what comes before it."""
        fan_in = before if isinstance(before, int) else int(before.feature_dim)  # type: ignore[arg-type]
        if layer[0].shape != (fan_out, fan_in):
            raise _misfit("a layer", tuple(layer[0].shape), (fan_out, fan_in))

    def _fill(self, target: Any, layer: Layer) -> None:
        for parameter, value in zip((target.weight, target.bias), layer, strict=True):
            _copy(parameter, value, type(target).__name__)


@torch.no_grad()
def _copy(parameter: Any, value: Tensor, what: str) -> None:
    if parameter.shape != value.shape:
        raise _misfit(what, tuple(value.shape), tuple(parameter.shape))
    parameter.copy_(value)


def _misfit(what: str, found: tuple[int, ...], expected: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"the weights do not fit the spaces: {what} has the shape {found}, and should have {expected}; pass "
        "observation_space= and action_space= if the model's are not the right ones"
    )


def _outputs_for(space: spaces.Space[Any]) -> int:
    """Width of the head for an action space."""
    return sum(choices(space)) or int(np.prod(space.shape or ()))


def _norm(statistics: Statistics) -> RunningNorm:
    norm = RunningNorm(np.shape(statistics.mean), statistics.clip)
    values = (norm.mean, statistics.mean), (norm.variance, statistics.variance), (norm.count, statistics.count)
    for buffer, value in values:
        buffer.copy_(torch.as_tensor(value))
    return norm


def _box(space: spaces.Space[Any]) -> spaces.Box:
    if not isinstance(space, spaces.Box):
        raise ValueError(f"the model acts in a Box, not in {space}")
    return space


def _refuse_start(name: str, space: spaces.Space[Any]) -> None:
    for part in space.spaces.values() if isinstance(space, spaces.Dict) else [space]:
        if np.any(getattr(part, "start", 0)):
            raise ValueError(
                f"the {name} has {part}, but SB3 counts from 0 whatever `start` says: pass {name}= with start=0, in "
                "which the model acts"
            )


def _activation(given: Any) -> str:
    for name, activation in ACTIVATIONS.items():
        if activation.__name__ == _class_name(given):
            return name
    raise ValueError(f"the activation {_class_name(given)} is not known; known: {', '.join(ACTIVATIONS)}")


def _class_name(given: Any) -> str:
    """Of a class, or of the text "<class 'torch.nn.modules.activation.ReLU'>"."""
    if isinstance(given, type):
        return given.__name__
    names = re.findall(r"\w+", str(given)[-LONGEST:])
    return names[-1] if names else str(given)


def _some(names: Any) -> str:
    first = [printable(name[:LONGEST]) for name in list(names)[:6]]
    return ", ".join(first) + (", ..." if len(first) < len(names) else "")
