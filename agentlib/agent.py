"""An agent: a policy with the spaces it acts in, in one safe file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from agentlib.backbones import from_spec, spec_of
from agentlib.data.spaces import (
    choices,
    observed_mask,
    observes_mask,
    space_from_json,
    space_to_json,
    to_batch,
    unflatten,
)
from agentlib.envs.masks import Masks
from agentlib.policies import POLICIES, GreedyActor
from agentlib.policies.exploration import random_actions
from agentlib.training.checkpoints import replacing

FILE_VERSION = 1


class Agent:
    """A policy with its spaces, ready to act anywhere: `action = agent.act(observation)`.

    It keeps its own random generator, and touches nothing of the host's.

    Args:
        policy: as `agentlib.policies` has them.
        observation_space: of one environment.
        action_space: of one environment.
        exploration_rate: share of random actions in `predict(deterministic=False)`, as SB3's DQN does it.
        about: JSON-able notes that are saved with the agent (how it was trained).
        seed: of its generator.
    """

    def __init__(
        self,
        policy: nn.Module,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        exploration_rate: float = 0.0,
        about: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.policy = policy
        self.observation_space, self.action_space = observation_space, action_space
        self.exploration_rate, self.about = exploration_rate, dict(about or {})
        self.generator = np.random.default_rng(seed)
        self._actor = GreedyActor(policy, observation_space)
        self._start = getattr(action_space, "start", 0)

    @property
    def backbone(self) -> nn.Module:
        """The network under the policy's head."""
        backbone = self.policy.backbone
        assert isinstance(backbone, nn.Module)
        return backbone

    @property
    def device(self) -> torch.device:
        """Where the policy lives."""
        return next(self.policy.parameters()).device

    @property
    def takes_masks(self) -> bool:
        """Whether its policy respects masks of legal actions. Those in Dict observations are found by themselves."""
        return bool(getattr(self.policy, "takes_masks", False))

    def act(self, observation: Any, *, action_mask: Any = None) -> Any:
        """The best action for one observation, or the actions for a batch of them.

        Args:
            observation: one, or a batch.
            action_mask: `(A,)`, or `(B, A)` for a batch, nonzero where an action is legal, such as Gymnasium's
                `info["action_mask"]`. For MultiDiscrete actions the masks of the components stand side by side.

        Raises:
            TypeError: the pair `(observation, info)`, or a dtype or structure that does not fit the space; a mask, and
                the policy knows none.
            ValueError: a shape that does not fit the space, or NaN; a mask that leaves no legal action.
        """
        leaves, single = to_batch(self.observation_space, observation)
        masks = () if action_mask is None else (self._masks(action_mask, single, len(leaves[0])),)
        actions = self._actor(unflatten(self.observation_space, leaves), *masks) + self._start
        return actions[0] if single else actions

    def _masks(self, action_mask: Any, single: bool, count: int) -> NDArray[np.bool_]:
        if not self.takes_masks:
            raise TypeError(f"an action mask was given, but {type(self.policy).__name__} knows none")
        reader = Masks(self.observation_space, self.action_space)
        masks = np.stack([reader.one(mask) for mask in ([action_mask] if single else action_mask)])
        if len(masks) != count:
            raise ValueError(f"{len(masks)} action masks do not fit a batch of {count} observations")
        if reader.without_choice(masks) is not None:
            raise ValueError("the action mask leaves no legal action")
        return masks

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
        *,
        action_mask: Any = None,
    ) -> tuple[Any, tuple[NDArray[Any], ...] | None]:
        """SB3's `predict`: actions for one observation or a batch, and the recurrent state (None without memory).

        With `deterministic=False` a share of `exploration_rate` of the actions is random, from the agent's own
        generator. Raises what `act` raises.
        """
        actions = np.asarray(self.act(observation, action_mask=action_mask))
        if not deterministic and self.exploration_rate > 0.0:
            actions = self._varied(actions, observation, action_mask)
        return actions, state

    def _varied(self, actions: NDArray[Any], observation: Any, action_mask: Any) -> NDArray[Any]:
        """A share of the actions random among the legal ones. (SB3 draws once per call, we once per observation.)"""
        leaves, single = to_batch(self.observation_space, observation)
        count = len(leaves[0])
        mask = None if action_mask is None else self._masks(action_mask, single, count)
        if mask is None and observes_mask(self.observation_space, self.action_space):
            mask = observed_mask(unflatten(self.observation_space, leaves), sum(choices(self.action_space)))
        random = self.generator.random(count) < self.exploration_rate
        others = random_actions(self.generator, choices(self.action_space), count, mask)  # (count, D)
        others = others.reshape(count, *(self.action_space.shape or ())) + self._start
        batch = actions[None] if single else actions
        varied = np.where(random.reshape(-1, *[1] * (batch.ndim - 1)), others, batch)
        return varied[0] if single else varied

    def reset(self, seed: int | None = None) -> None:
        """Forgets what was remembered of an episode; with a seed, the generator starts anew."""
        if seed is not None:
            self.generator = np.random.default_rng(seed)

    def save(self, path: str | Path) -> Path:
        """Writes the agent to one safetensors file, whole or not at all; returns its path (suffix .safetensors)."""
        path = Path(path)
        path = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
        description = {
            "file": "agentlib agent",
            "version": FILE_VERSION,
            "policy": spec_of(self.policy),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "exploration_rate": self.exploration_rate,
            "about": self.about,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.policy.state_dict().items()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"agentlib": json.dumps(description, allow_nan=False)})
        return path

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        classes: Mapping[str, type[nn.Module]] | None = None,
    ) -> Self:
        """The agent in a file that `save` wrote. Nothing is unpickled and no code of the file is run.

        Args:
            path: the file, or the folder of a run.
            device: where the policy shall live.
            classes: network classes of your own by name, if the agent uses any.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged, is no agent, or is of a newer version.
        """
        path = Path(path)
        if not path.is_file():
            # The folder of a run, or a name without its suffix, as `save` takes it.
            others = (path / "agent.safetensors", path.with_name(path.name + ".safetensors"))
            found = [other for other in others if other.is_file()]
            if not found:
                raise FileNotFoundError(f"no agent file at {path}")
            path = found[0]
        try:
            with safe_open(path, "pt", device="cpu") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is no agent file, or it is damaged: {error}") from None
        description = _description(path, metadata)
        policy = from_spec(description["policy"], {**POLICIES, **(classes or {})})
        try:
            policy.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{path}: the weights do not fit the policy: {error}") from None
        return cls(
            policy.eval().to(device),
            space_from_json(description["observation_space"]),
            space_from_json(description["action_space"]),
            exploration_rate=float(description["exploration_rate"]),
            about=description["about"],
        )

    def check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        """Raises ValueError, naming both, if these are not the spaces that the agent was made for."""
        for kind, mine, theirs in (
            ("observation", self.observation_space, observation_space),
            ("action", self.action_space, action_space),
        ):
            if mine != theirs:
                raise ValueError(f"the agent's {kind} space is {mine}, the environment's is {theirs}")

    def __repr__(self) -> str:
        return f"Agent({self.observation_space} -> {self.action_space})"


def _description(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        description = json.loads(metadata["agentlib"])
        kind, version = description["file"], int(description["version"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no agent file: it does not say that agentlib wrote it") from None
    if kind != "agentlib agent":
        raise ValueError(f"{path} is no agent file but {kind!r}")
    if version > FILE_VERSION:
        raise ValueError(f"{path} has version {version}, this agentlib reads up to {FILE_VERSION}: update agentlib")
    missing = {"policy", "observation_space", "action_space", "exploration_rate", "about"} - set(description)
    if missing:
        raise ValueError(f"{path} is damaged: it does not give {', '.join(sorted(missing))}")
    return dict(description)
