"""Demonstrations: recorded episodes in columns, exact, with an expert's labels of their steps."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from agentlib.backbones.files import checksum
from agentlib.core.names import one_line, shown
from agentlib.core.numbers import whole
from agentlib.core.spaces import (
    action_from_space,
    finite_sum,
    leaf_dtype,
    leaf_shape,
    leaf_spaces,
    overflows,
    space_from_json,
    to_actions,
    to_batch,
    unflatten,
)
from agentlib.envs.checks import LARGEST_REWARD, truth_of
from agentlib.experience.columns import Column, per_step
from agentlib.experience.demonstration_arrays import episodes_of, warning_of
from agentlib.experience.demonstration_files import load_demonstrations, save_demonstrations
from agentlib.experience.minari_datasets import read_minari, write_minari
from agentlib.experience.replay_buffer import ReplayBuffer
from agentlib.experience.transition import Episode

if TYPE_CHECKING:
    import minari


class Demonstration(NamedTuple):
    """One recorded episode of T steps. Actions are as the environment takes them. What is read has no None in it."""

    observations: Any
    """`(T + 1, *shape)` in each leaf, the final observation included."""
    actions: NDArray[Any]
    """`(T, ...)`: what was done."""
    rewards: NDArray[Any]
    """`(T,)`"""
    terminated: bool = False
    """Whether the last step ended the task; otherwise the episode was cut off there."""
    labels: Any = None
    """`(T, ...)`, as actions: what the expert would do; by default what was done."""
    labelled: Any = None
    """`(T,)` bool: where `labels` holds an answer of the expert; by default everywhere."""
    interventions: Any = None
    """`(T,)` bool: where the expert acted in the learner's place; by default nowhere."""


class _Place(NamedTuple):
    """An episode's first row among the steps, its first row among the frames, its steps, and how it ended."""

    step: int
    frame: int
    length: int
    terminated: bool


class Demonstrations:
    """Episodes of T steps with T + 1 observations each, one after the other in columns.

    Columns keep the spaces' own dtypes. Episodes are only ever added: what was recorded stays where it is, and what
    `select` and `split` give are other lists of episodes over the same columns.

    Args:
        observation_space: of one environment: Box, Discrete, MultiDiscrete, MultiBinary, nested in Dict and Tuple.
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        env_id: the environment's id, as far as it is known.

    Raises:
        TypeError: spaces without fixed shapes, or an action space of several parts.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], *, env_id: str | None = None
    ) -> None:
        self.observation_space, self.action_space, self.env_id = observation_space, action_space, env_id
        to_actions(action_space, np.empty((0, *(action_space.shape or ())), action_space.dtype))
        leaves = [(leaf_shape(leaf), np.dtype(leaf.dtype)) for leaf in leaf_spaces(observation_space)]
        action = (tuple(action_space.shape or ()), np.dtype(action_space.dtype))
        self._frames = [f"observation_{i}" for i in range(len(leaves))]
        layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = dict(zip(self._frames, leaves, strict=True))
        layout |= {"action": action, "label": action, "reward": ((), np.dtype(np.float64))}
        layout |= {"labelled": ((), np.dtype(np.bool_)), "intervention": ((), np.dtype(np.bool_))}
        self._columns = {name: Column(np.empty((0, *shape), dtype)) for name, (shape, dtype) in layout.items()}
        self._episodes: list[_Place] = []
        self.steps = 0
        """Steps of all episodes."""

    # Reading ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._episodes)

    @property
    def labels(self) -> int:
        """Steps for which the expert's action is known."""
        labelled = self.column("labelled")
        return sum(int(labelled[one.step : one.step + one.length].sum()) for one in self._episodes)

    @property
    def returns(self) -> NDArray[np.float64]:
        """The undiscounted sum of rewards of each episode, `(episodes,)`."""
        return np.array([episode.rewards.sum() for episode in self], np.float64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each episode, `(episodes,)`."""
        return np.array([one.length for one in self._episodes], np.int64)

    def column(self, name: str) -> NDArray[Any]:
        """A whole column, "observation_0" ... by frames, or "action", "label", ... by steps."""
        return self._columns[name].rows

    @property
    def observation_columns(self) -> list[NDArray[Any]]:
        """The leaves of the observations, `(frames, *shape)` each."""
        return [self.column(name) for name in self._frames]

    @property
    def first_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each episode begins, `(episodes,)`: among the steps, and among the frames."""
        steps, frames = ([getattr(one, axis) for one in self._episodes] for axis in ("step", "frame"))
        return np.array(steps, np.int64), np.array(frames, np.int64)

    @overload
    def __getitem__(self, index: int) -> Demonstration: ...

    @overload
    def __getitem__(self, index: slice) -> Demonstrations: ...

    def __getitem__(self, index: int | slice) -> Demonstration | Demonstrations:
        """An episode, or some of them as `select` gives them; views, not copies."""
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        step, frame, n, terminated = self._episodes[index]
        leaves = [column[frame : frame + n + 1] for column in self.observation_columns]
        names = ("action", "reward", "label", "labelled", "intervention")
        action, reward, *marks = (self.column(name)[step : step + n] for name in names)
        return Demonstration(unflatten(self.observation_space, leaves), action, reward, terminated, *marks)

    def __iter__(self) -> Iterator[Demonstration]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        size = f"{len(self):,} episodes, {self.steps:,} steps, {self.labels:,} labels"
        return f"Demonstrations({size}: {self.observation_space} -> {self.action_space})"

    # Adding ------------------------------------------------------------------------------------------------------

    def append(self, episode: Demonstration | Episode) -> None:
        """Adds an episode.

        Raises:
            TypeError: observations or actions of another kind.
            ValueError: no steps, lengths or shapes that do not go together, NaN, or an action outside the space.
        """
        whole = Demonstration(*(episode[:4] if isinstance(episode, Episode) else episode))  # without masks
        where, count = f"episode {len(self)}", len(whole.rewards)
        if count == 0:
            raise ValueError(f"{where} has no steps")
        try:
            leaves, single = to_batch(self.observation_space, whole.observations)
            actions = to_actions(self.action_space, whole.actions)
            labels = actions if whole.labels is None else to_actions(self.action_space, whole.labels)
            rewards = per_step("rewards", whole.rewards, count, np.float64)
            labelled = per_step("labelled", whole.labelled, count, np.bool_, default=1)
            interventions = per_step("interventions", whole.interventions, count, np.bool_)
            terminated = truth_of(whole.terminated, "terminated")
            for leaf, part in zip(leaves, leaf_spaces(self.observation_space), strict=True):
                if overflows(leaf, leaf_dtype(part)):
                    raise ValueError(f"an observation has numbers that {leaf_dtype(part)} cannot hold")
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from None
        if single or len(leaves[0]) != count + 1 or len(actions) != count or len(labels) != count:
            frames = 1 if single else len(leaves[0])
            raise ValueError(
                f"{where} has {frames} observations, {len(actions)} actions, {len(labels)} labels and {count} rewards: "
                "T steps have T + 1 observations, the final one included"
            )
        if not all(finite_sum(leaf) or np.isfinite(leaf).all() for leaf in leaves if leaf.dtype.kind == "f"):
            raise ValueError(f"{where}: the observations are not all finite")
        finite = np.abs(rewards) <= LARGEST_REWARD
        if not finite.all():
            raise ValueError(f"{where}: the reward at step {int(finite.argmin())} is not finite in float32")
        place = _Place(self._columns["reward"].size, self._columns["observation_0"].size, count, terminated)
        self._episodes.append(place)
        self.steps += count
        added = [*leaves, actions, labels, rewards, labelled, interventions]  # in the order of the columns
        for column, rows in zip(self._columns.values(), added, strict=True):
            column.extend(rows)

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Demonstration | Episode],
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        env_id: str | None = None,
    ) -> Self:
        """Demonstrations from recorded episodes. Raises what `append` raises."""
        made = cls(observation_space, action_space, env_id=env_id)
        for episode in episodes:
            made.append(episode)
        return made

    @classmethod
    def from_arrays(
        cls,
        observations: Any,
        actions: ArrayLike,
        *,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        rewards: ArrayLike | None = None,
        terminated: ArrayLike | None = None,
        truncated: ArrayLike | None = None,
        next_observations: Any = None,
    ) -> Self:
        """Demonstrations from arrays with one row for each of N steps, episodes one after the other.

        Args:
            observations: `(N, *shape)` in each leaf.
            actions: `(N, ...)`, as the environment takes them.
            observation_space: of the environment.
            action_space: of the environment.
            rewards: `(N,)`; 0 without them.
            terminated: `(N,)`: where the task ended.
            truncated: `(N,)`: where an episode was cut off; without both it is all one episode.
            next_observations: `(N, *shape)` in each leaf. Without them the last observation of each episode
                counts as its final one, and the action that was chosen there is left out. Where these are more than a
                tenth of the steps, a warning says so.

        Raises:
            TypeError: observations or actions of another kind.
            ValueError: shapes that do not go together, NaN, an action outside the space, or no step that is left.
        """
        arrays = observations, next_observations, actions, rewards, terminated, truncated
        episodes = (Demonstration(*one) for one in episodes_of(observation_space, *arrays))
        made = cls.from_episodes(episodes, observation_space, action_space)
        if left_out := warning_of(len(np.atleast_1d(actions)), made.steps):
            warnings.warn(left_out, stacklevel=2)
        return made

    def fingerprint(self) -> str:
        """A digest of all columns, also of episodes that were not selected, and of these episodes."""
        places = {"episodes": torch.tensor(self._episodes, dtype=torch.int64)}
        return checksum("", places | {name: torch.from_numpy(self.column(name)) for name in self._columns})

    # Choosing ----------------------------------------------------------------------------------------------------

    def select(self, episodes: Sequence[int] | NDArray[Any]) -> Demonstrations:
        """Some of the episodes, over the same columns: nothing is copied."""
        chosen = Demonstrations(self.observation_space, self.action_space, env_id=self.env_id)
        chosen._columns = self._columns
        chosen._episodes = [self._episodes[int(index)] for index in episodes]
        chosen.steps = sum(one.length for one in chosen._episodes)
        return chosen

    def split(self, share: float, seed: int = 0) -> tuple[Demonstrations, Demonstrations]:
        """Two parts, the second with this share of the *episodes*: steps of one episode are too alike to be parted.

        Raises:
            ValueError: the share is not between 0 and 1, or there are too few episodes.
        """
        if not 0.0 < share < 1.0:
            raise ValueError(f"the share of the second part lies between 0 and 1, and is not {share}")
        if len(self) < 2:
            raise ValueError(f"two parts need at least 2 episodes, and here is {len(self)}")
        order = np.random.default_rng(whole("seed", seed)).permutation(len(self))
        count = min(max(round(share * len(self)), 1), len(self) - 1)
        return self.select(np.sort(order[count:])), self.select(np.sort(order[:count]))

    def check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        """Raises ValueError, naming both, if these are not the spaces of the demonstrations."""
        for kind, theirs in (("observation", observation_space), ("action", action_space)):
            if (mine := getattr(self, f"{kind}_space")) != theirs:
                raise ValueError(f"the demonstrations' {kind} space is {mine}, the environment's is {theirs}")

    def fill(self, buffer: ReplayBuffer) -> None:
        """Puts all episodes into a replay buffer, before an environment writes to it.

        Raises:
            ValueError: the buffer is for other spaces.
        """
        self.check_spaces(buffer.observation_space, buffer.action_space)
        buffer.extend(
            Episode(episode.observations, action_from_space(self.action_space, episode.actions), *episode[2:4])
            for episode in self
        )

    # Files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Writes one safetensors file, whole or not at all; returns its path (suffix .safetensors)."""
        return save_demonstrations(path, self.observation_space, self.action_space, self.env_id, self.state())

    @classmethod
    def load(cls, path: str | Path) -> Demonstrations:
        """The demonstrations in a file that `save` wrote. Nothing is unpickled.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged, holds no demonstrations, or is of a newer version.
        """
        description, columns = load_demonstrations(path)
        try:
            both = (space_from_json(description[f"{kind}_space"]) for kind in ("observation", "action"))
            if not isinstance(description["env"], str | None):
                raise ValueError(f"its environment is {shown(description['env'])}")
            made = Demonstrations(*both, env_id=description["env"])
            made.load_state({name: column.numpy() for name, column in columns.items()})
            for name, column in made._columns.items():
                if not np.isfinite(column.rows).all():
                    raise ValueError(f"{name} holds infinities")
                if name in ("action", "label"):
                    to_actions(made.action_space, column.rows)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {one_line(error)}") from None
        return made

    def state(self) -> dict[str, NDArray[Any]]:
        """The columns of these episodes alone, and the episodes' lengths and ends.

        Views, where the episodes lie together, as they do unless some were selected.
        """
        state = {"length": self.lengths, "terminated": np.array([one.terminated for one in self._episodes], np.bool_)}
        steps = [(one.step, one.step + one.length) for one in self._episodes]
        frames = [(one.frame, one.frame + one.length + 1) for one in self._episodes]
        for name, column in self._columns.items():
            pieces = frames if name in self._frames else steps
            if all(before[1] == after[0] for before, after in pairwise(pieces)):
                state[name] = column.rows[pieces[0][0] : pieces[-1][1]] if pieces else column.rows[:0]
            else:
                state[name] = np.concatenate([column.rows[begin:end] for begin, end in pieces])
        return state

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Puts back what `state` gave; columns are not copied.

        Raises:
            ValueError: columns of other shapes or dtypes, or that do not go together with the lengths.
        """
        lengths, terminated = (np.asarray(state[name]) for name in ("length", "terminated"))
        most = len(np.asarray(state["reward"]))
        if lengths.dtype != np.int64 or ((lengths < 1) | (lengths > most)).any() or terminated.shape != lengths.shape:
            raise ValueError("the lengths of the episodes cannot be right")
        columns = {}
        for name, column in self._columns.items():
            rows = np.asarray(state[name])
            size = int(lengths.sum()) + (len(lengths) if name in self._frames else 0)
            if rows.shape != (size, *column.rows.shape[1:]) or rows.dtype != column.rows.dtype:
                raise ValueError(f"{name} is {rows.dtype} of shape {rows.shape}, which fits neither spaces nor lengths")
            columns[name] = Column(rows)
        self._columns = columns
        first, self.steps = np.cumsum(lengths) - lengths, int(lengths.sum())
        places = zip(first.tolist(), lengths.tolist(), terminated.tolist(), strict=True)
        self._episodes = [_Place(row, row + i, n, bool(end)) for i, (row, n, end) in enumerate(places)]

    @classmethod
    def from_minari(cls, dataset: str | minari.MinariDataset) -> Demonstrations:
        """The episodes of a Minari dataset on this machine, by its id or as an object; see `minari_datasets`."""
        made: Demonstrations = read_minari(dataset, Demonstrations)
        return made

    def to_minari(self, dataset_id: str, **about: Any) -> minari.MinariDataset:
        """Writes a Minari dataset; see `agentlib.experience.minari_datasets.write_minari`."""
        return write_minari(self, dataset_id, **about)
