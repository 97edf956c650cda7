"""Recording episodes as demonstrations, while environments are stepped."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.numbers import whole
from agentlib.core.progress import watched
from agentlib.core.spaces import action_to_space, choices, flatten, random_actions, unflatten
from agentlib.envs.checks import warn_of_length
from agentlib.envs.making import EnvLike, limited, make_env
from agentlib.envs.vector import Environments
from agentlib.experience.asking import Expert, ExpertLeft
from agentlib.experience.demonstrations import Demonstration, Demonstrations

Bools = NDArray[np.bool_]


class Recorder:
    """Steps environments and writes every episode to demonstrations when it ends.

    Args:
        envs: what is stepped.
        demonstrations: where the episodes go.
    """

    def __init__(self, envs: Environments, demonstrations: Demonstrations) -> None:
        self.envs, self.demonstrations = envs, demonstrations
        self.observation: Any = None
        self.begun: Bools = np.ones(envs.num_envs, np.bool_)
        """Where `observation` is the first of an episode."""
        self.waiting: Bools = np.zeros(envs.num_envs, np.bool_)
        """Where the next step will only reset: nothing to act on, nothing to ask about."""
        self._frames: list[list[Any]] = [[] for _ in range(envs.num_envs)]
        self._steps: list[list[tuple[Any, ...]]] = [[] for _ in range(envs.num_envs)]

    def reset(self, seed: int | None = None) -> None:
        """Starts new episodes everywhere; those under way are kept, cut off."""
        self.cut()
        self.observation = self.envs.reset(seed=seed)
        self.begun[:], self.waiting[:] = True, False
        self._begin(self.begun)

    def step(self, action: NDArray[Any], label: NDArray[Any], labelled: Bools, intervention: Bools) -> Bools:
        """One step of each environment, all arguments batched; returns where it was a transition."""
        stepped = self.envs.step(action)
        leaves = self._leaves(stepped.next_observation)
        for row in np.flatnonzero(stepped.valid):
            step = (action[row], label[row], stepped.reward[row], labelled[row], intervention[row])
            self._steps[row].append(tuple(np.array(value) for value in step))
            self._frames[row].append([leaf[row].copy() for leaf in leaves])
            warn_of_length(len(self._steps[row]))
        ended = stepped.terminated | stepped.truncated
        if stepped.any_ended:
            for row in np.flatnonzero(ended):
                self._write(int(row), bool(stepped.terminated[row]))
        self.observation = stepped.observation
        self.begun, self.waiting = stepped.begun.copy(), ended & ~stepped.begun
        if stepped.any_begun:
            self._begin(stepped.begun)
        return stepped.valid

    def cut(self) -> None:
        """Writes the episodes under way as far as they went, cut off. The next thing to do is `reset`."""
        for row in range(self.envs.num_envs):
            self._write(row, terminated=False)
        self.observation = None

    def state(self) -> dict[str, Any]:
        """The episodes under way, and what brings the environments back to where they are."""
        if self.observation is None:
            return {}
        return {
            "envs": self.envs.state(),
            "begun": self.begun.copy(),
            "waiting": self.waiting.copy(),
            "frames": [_stacked(frames) for frames in self._frames],
            "steps": [_stacked(steps) for steps in self._steps],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave. If the environments do not come back, what there is is kept, cut off."""
        if not state:
            self.observation = None
            return
        self.begun, self.waiting = np.array(state["begun"]), np.array(state["waiting"])
        self._frames = [[list(row) for row in zip(*leaves, strict=True)] for leaves in state["frames"]]
        self._steps = [list(zip(*parts, strict=True)) for parts in state["steps"]]
        self.observation = self.envs.load_state(state["envs"])
        if self.observation is None:
            self.cut()

    def _begin(self, where: Bools) -> None:
        leaves = self._leaves(self.observation)
        for row in np.flatnonzero(where):
            self._frames[row], self._steps[row] = [[leaf[row].copy() for leaf in leaves]], []

    def _write(self, row: int, terminated: bool) -> None:
        steps, frames = self._steps[row], self._frames[row]
        self._steps[row], self._frames[row] = [], []
        if steps:
            space = self.demonstrations.observation_space
            observations = unflatten(space, _stacked(frames))
            actions, labels, rewards, labelled, interventions = _stacked(steps)
            self.demonstrations.append(
                Demonstration(observations, actions, rewards, terminated, labels, labelled, interventions)
            )

    def _leaves(self, observation: Any) -> list[NDArray[Any]]:
        return [np.asarray(leaf) for leaf in flatten(self.demonstrations.observation_space, observation)]


def _stacked(rows: list[Any]) -> list[NDArray[Any]]:
    """The columns of equal rows of arrays."""
    return [np.stack(column) for column in zip(*rows, strict=True)]


def record_episodes(
    expert: Any,
    env: EnvLike,
    episodes: int,
    *,
    seed: int = 0,
    noise: float = 0.0,
    env_kwargs: dict[str, Any] | None = None,
    max_steps: int | None = None,
) -> Demonstrations:
    """Lets an expert act, and records whole episodes.

    Args:
        expert: what `agentlib.experience.Expert` takes: a function of a batch of observations, an agent, an SB3 model,
            an `Onlooker`, a person. A person who leaves ends the recording; what was played is kept.
        env: an environment's id, a single environment, or a function that makes one.
        episodes: how many.
        seed: of the environment and the noise; the first episode is that of `env.reset(seed=seed)`.
        noise: share of steps at which a random action is done in place of the expert's. The labels stay the expert's,
            and so show the way back from where it would not go by itself (Laskey et al. 2017, arXiv:1703.09327).
            Where the environment says which actions are legal, it is one of these.
        env_kwargs: for the environment's constructor.
        max_steps: cut an episode off after this number of steps; None leaves its end to the environment.

    Raises:
        TypeError: an answer of another kind than the environment's actions, or spaces without fixed shapes.
        ValueError: an answer that does not fit; the message names episode and step.
    """
    episodes, seed = whole("episodes", episodes, 1), whole("seed", seed)
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"noise is a share of the steps, between 0 and 1, not {noise}")
    made = make_env(env, env_kwargs=env_kwargs, training=False)
    try:
        envs = Environments(limited(made, max_steps))
        env_id = None if made.spec is None else made.spec.id
        demonstrations = Demonstrations(envs.observation_space, envs.action_space, env_id=env_id)
        recorder, asked = Recorder(envs, demonstrations), np.ones(1, np.bool_)
        answers = Expert(expert, envs)
        space, generator = copy.deepcopy(envs.action_space), np.random.default_rng([seed, 2])
        space.seed(seed)  # the copy: the space's own generator is the caller's
        recorder.reset(seed)
        for episode in watched(range(episodes), "recording"):
            while len(demonstrations) == episode:
                try:
                    label = answers(recorder.observation, asked, recorder.begun)
                except ExpertLeft:
                    recorder.cut()
                    return demonstrations
                except (TypeError, ValueError) as error:
                    step = len(recorder._steps[0])
                    raise type(error)(f"the expert, episode {episode}, step {step}: {error}") from None
                recorder.step(_with_noise(label, noise, space, generator, envs.action_mask), label, asked, ~asked)
        return demonstrations
    finally:
        if made is not env:
            made.close()


def _with_noise(
    actions: NDArray[Any],
    share: float,
    space: spaces.Space[Any],
    generator: np.random.Generator,
    masks: Bools | None = None,
) -> NDArray[Any]:
    """The actions, each replaced by a random one with this probability; by a legal one, where masks say so."""
    if share == 0.0:
        return actions
    if masks is None:
        random = np.stack([np.asarray(space.sample()) for _ in actions])
    else:
        options = random_actions(generator, choices(space), len(actions), masks).reshape(actions.shape)
        random = action_to_space(space, options)
    replaced = generator.random(len(actions)) < share
    return np.where(replaced.reshape(-1, *[1] * (actions.ndim - 1)), random, actions).astype(actions.dtype)
