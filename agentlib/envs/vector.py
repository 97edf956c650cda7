"""One way to step any environment: a single one, Gymnasium's vector environments in each autoreset mode, SB3's.

They differ in the end of an episode: which observation is the true last one, which starts a new episode, and which step
is no transition at all. These differences stay in this file.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from agentlib.core.spaces import flatten, unflatten
from agentlib.envs.checks import (
    LARGEST_REWARD,
    Bools,
    Checks,
    EnvironmentFailure,
    Unfit,
    begin,
    is_single,
    mistake_of,
    number_of,
    numbers_of,
    truth_of,
    truths_of,
)
from agentlib.envs.journal import Diverged, Journal, goes_on, require_same, retrace
from agentlib.envs.wrappers import CheckedSteps

__all__ = ["EnvironmentFailure", "Environments", "Stepped"]


class Stepped(NamedTuple):
    """The result of one step of n environments."""

    observation: Any
    """The observations to act on next, batched; of a new episode where `begun`."""
    next_observation: Any
    """The observations after this step, batched; the true final one where an episode ended."""
    reward: NDArray[np.float64]
    """`(n,)`"""
    terminated: Bools
    """`(n,)`: the task ended; nothing to come."""
    truncated: Bools
    """`(n,)`: the episode was cut off; values after it still count."""
    valid: Bools
    """`(n,)`: False where this step only reset an environment: no transition."""
    begun: Bools
    """`(n,)`: where `observation` is the first of an episode."""
    all_valid: bool
    any_ended: bool
    any_begun: bool
    info: dict[str, Any]
    next_mask: Bools | None = None
    """`(n, A)`: the legal actions after `next_observation`; None if the environment gave no mask."""


class Environments:
    """Steps n environments and resets those that are done.

    After `reset(seed)` each episode of a single environment has a seed of its own, and so has each in a
    `SyncVectorEnv` without autoreset, whose environment i has the episodes of a single one after `reset(seed + i)`.
    Actions and rewards since then are kept, so that `load_state` can play the
    episodes under way again. Other vector environments can only be seeded as a whole: they are played again from their
    first step, if that is not too far back.

    Args:
        env: a `gymnasium.Env`, a `gymnasium.vector.VectorEnv` (any autoreset mode), or an SB3 `VecEnv`. An environment
            that writes each observation into one array may do so, but not in the processes of an `AsyncVectorEnv` in
            SAME_STEP mode or of a `SubprocVecEnv`, which lose its final observations; `Subprocesses` keeps them.
        is_owned: `close` closes it; otherwise it stays open, for the caller to close.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    action_mask: Bools | None = None
    """`(n, A)`: the actions that are legal now, as the environment's last infos or observations say (see
    `agentlib.envs.checks`); None if they say nothing."""

    def __init__(self, env: Any, is_owned: bool = True) -> None:
        self.env, self.is_owned = env, is_owned
        self.steps = 0
        single, self._checked_step = is_single(env), CheckedSteps(env)
        mode = _autoreset_mode(env) if isinstance(env, VectorEnv) else None
        if mode is not None:
            self._step = {
                AutoresetMode.NEXT_STEP: self._step_next_step,
                AutoresetMode.SAME_STEP: self._step_same_step,
                AutoresetMode.DISABLED: self._step_disabled,
            }[mode]
        elif single:
            self._step = self._step_single
        elif all(hasattr(env, name) for name in ("num_envs", "step_wait", "reset", "observation_space")):
            self._step = self._step_sb3
        else:
            raise TypeError(
                f"{type(env).__name__} is no environment: give a gymnasium.Env, a gymnasium.vector.VectorEnv or an "
                "SB3 VecEnv"
            )
        of_one = "" if mode is None else "single_"
        self.observation_space = getattr(env, f"{of_one}observation_space")
        self.action_space = getattr(env, f"{of_one}action_space")
        self.num_envs = 1 if single else int(env.num_envs)
        self.checks = Checks(self.observation_space, self.action_space, self.num_envs, single)
        self.observation: Any = None
        """The observations to act on next, batched; None before the first reset."""
        self._worlds: list[gymnasium.Env[Any, Any]] = [env] if single else []
        if type(env) is SyncVectorEnv and mode is AutoresetMode.DISABLED:
            self._worlds = list(env.envs)
        self._seeds: list[np.random.Generator] | None = None  # of each lane, draws the seeds of its episodes
        self._lanes = len(self._worlds) or 1  # that can be seeded by themselves
        self._journal = Journal(self._lanes)
        self._begun: list[tuple[int, int]] = []  # environments that were reset by this step, and their seeds
        self._done = np.zeros(self.num_envs, dtype=bool)
        self._all = np.ones(self.num_envs, dtype=bool)
        self._none = np.zeros(self.num_envs, dtype=bool)
        self._all.flags.writeable = self._none.flags.writeable = False  # handed out at every step

    def reset(self, seed: int | None = None) -> Any:
        """Resets all environments; returns the batched first observations.

        With a seed, environment i starts with `seed + i`, and later episodes with seeds that follow from it.
        """
        self._done[:] = False
        try:
            if isinstance(self.env, gymnasium.Env | VectorEnv):
                observation, info = begin(self.env, seed)
                if self.checks.single:
                    observation = self._batched(observation)
            else:
                if seed is not None:
                    self.env.seed(seed)
                observation, info = self.env.reset(), getattr(self.env, "reset_infos", [])
            self.action_mask = self._mask(observation, info)
            if self.action_mask is not None:
                self.checks.some_choice(self.action_mask, self.steps)
            self.checks.observation(observation, self.steps)
        except KeyError as error:
            raise EnvironmentFailure(f"the environment's reset {mistake_of(error)}") from error
        self._seeds = None if seed is None else [np.random.default_rng(seed + lane) for lane in range(self._lanes)]
        self._begun.clear()
        for lane in range(self._lanes):
            self._journal.begin(lane, None if seed is None else seed + lane)
        self.observation = observation
        return observation

    def _next_seed(self, lane: int) -> int | None:
        """The seed of a new episode; None where the reset is none, and the same game goes on."""
        if self._seeds is None or goes_on(self._worlds[lane]):
            return None
        seed = int(self._seeds[lane].integers(2**30))
        self._begun.append((lane, seed))
        return seed

    def step(self, action: NDArray[Any]) -> Stepped:
        """Steps every environment with `action`, batched; resets those that are done.

        Raises:
            EnvironmentFailure: the environment raised, gave a reward or an observation with NaN, infinities or another
                shape or type, or an action mask that does not fit or leaves no legal action.
        """
        try:
            stepped = self._step(action)
        except EnvironmentFailure:
            raise
        except Unfit as error:
            raise EnvironmentFailure(f"the environment gave {error} at step {self.steps + 1}") from None
        except Exception as error:
            raise EnvironmentFailure(
                f"the environment {mistake_of(error)} at step {self.steps + 1}: {error!r}"
            ) from error
        reward, num_envs = stepped.reward, self.num_envs
        if not (abs(reward.item()) if num_envs == 1 else np.abs(reward).max()) <= LARGEST_REWARD:  # also for NaN
            raise EnvironmentFailure(
                f"the environment gave the reward {reward} at step {self.steps + 1}, which is not finite in float32"
            )
        self.steps += num_envs if stepped.all_valid else int(stepped.valid.sum())
        self.checks.observation(stepped.next_observation, self.steps)
        if stepped.any_begun and stepped.observation is not stepped.next_observation:
            self.checks.observation(stepped.observation, self.steps)
        if self.action_mask is not None or stepped.next_mask is not None:
            self._check_masks(stepped)
        self.observation = stepped.observation
        self._journal.note(action, reward)
        while self._begun:
            self._journal.begin(*self._begun.pop())
        return stepped

    def _mask(self, observation: Any, info: Any) -> Bools | None:
        """The legal actions `(n, A)` in observations or infos; None if they have none."""
        return self.checks.masks(observation, info, self.steps + 1)

    def _check_masks(self, stepped: Stepped) -> None:
        """Refuses masks that leave no legal action where one must be chosen or valued: not once the task has ended."""
        mask, next_mask = self.action_mask, stepped.next_mask
        if next_mask is not None:
            self.checks.some_choice(next_mask | (stepped.terminated | ~stepped.valid)[:, None], self.steps)
        if mask is not None:
            if self._done.any():  # the next action is ignored there: any will do
                mask = self.action_mask = mask | self._done[:, None]
            self.checks.some_choice(mask, self.steps)

    def close(self) -> None:
        """Closes the environment, unless it is the caller's."""
        if self.is_owned:
            self.env.close()

    # State -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The seeds of the episodes under way, the actions since, and their results, to play these episodes again."""
        if self.observation is None:
            return {"steps": self.steps}
        return {
            "steps": self.steps,
            "seeds": None if self._seeds is None else [generator.bit_generator.state for generator in self._seeds],
            "journal": self._journal.state(),
            "observation": [np.array(leaf) for leaf in flatten(self.observation_space, self.observation)],
        }

    def load_state(self, state: dict[str, Any]) -> Any:
        """Plays the episodes under way again; returns the observation to act on next.

        None if there was none, or if the environments do not come to the same rewards and observation as before. In
        that case a warning says so, and they have to be reset.
        """
        self.steps, self.observation = state["steps"], None
        if "observation" not in state:
            return None
        try:
            self._play_again(state)
        except Exception as error:
            reason = str(error) if isinstance(error, Diverged) else f"it raised {error!r}"
            warnings.warn(
                f"the environment could not be brought back to where it was: {reason}. It starts a new episode, and "
                "the run goes on, but does not equal one that was never stopped",
                stacklevel=2,
            )
            self.observation = None
        return self.observation

    def _play_again(self, state: dict[str, Any]) -> None:
        journal = Journal(self._lanes)
        journal.load_state(state["journal"])
        known = [part for lane in range(self._lanes) if (part := journal.since(lane)) is not None]
        if state["seeds"] is None or len(known) < self._lanes:
            raise Diverged("its last reset with a seed was none, or too long ago to be played again")
        before = [np.array(leaf) for leaf in state["observation"]]
        expected = unflatten(self.observation_space, before)
        if self._worlds:
            self.env.reset()  # a vector environment then knows of no ended episode
            infos = []
            for row, (actions, rewards) in enumerate(known):
                observation, info = retrace(self._worlds[row], journal.seeds[row], actions[:, row], rewards[:, row])
                leaves = flatten(self.observation_space, self._batched(observation))
                for leaf, of_all in zip(leaves, before, strict=True):
                    require_same(leaf, of_all[row : row + 1], "observation")
                infos.append(info)
            self.action_mask = self._mask(expected, infos[0] if self.checks.single else infos)
        else:
            observation = self.reset(journal.seeds[0])
            for action, reward in zip(*known[0], strict=True):
                stepped = self._step(action)
                require_same(stepped.reward, reward, "reward")
                observation = stepped.observation
            for leaf, of_all in zip(flatten(self.observation_space, observation), before, strict=True):
                require_same(leaf, of_all, "observation")
            if self.action_mask is not None:
                self.action_mask = self.action_mask | self._done[:, None]  # as in `_check_masks`
        self._seeds, self._journal, self.observation = [], journal, expected
        for known_state in state["seeds"]:
            generator = np.random.default_rng()
            generator.bit_generator.state = known_state
            self._seeds.append(generator)
        self._begun.clear()

    def _batched(self, observation: Any) -> Any:
        if type(observation) is np.ndarray:
            return observation[None]
        leaves = [np.asarray(leaf)[None] for leaf in flatten(self.observation_space, observation)]
        return unflatten(self.observation_space, leaves)

    def _outcome(self, action: NDArray[Any]) -> tuple[Any, NDArray[np.float64], Bools, Bools, Any]:
        """Observations, rewards, flags and infos of a step of a Gymnasium vector environment."""
        observation, reward, terminated, truncated, info = self._checked_step(action)
        n = self.num_envs
        ends = truths_of(terminated, "terminated", n), truths_of(truncated, "truncated", n)
        return observation, numbers_of(reward, n), *ends, info

    def _step_single(self, action: NDArray[Any]) -> Stepped:
        observation, reward, terminated, truncated, info = self.env.step(action[0].copy())
        # Read before a reset, which may write into what the environment gave.
        rewards, every = np.array([reward if type(reward) is float else number_of(reward)]), self._all
        if not terminated is truncated is False:
            terminated, truncated = truth_of(terminated, "terminated"), truth_of(truncated, "truncated")
        batched = current = observation[None] if type(observation) is np.ndarray else self._batched(observation)
        begun = none = self._none
        self.action_mask = mask = self._mask(batched, info)
        ended = terminated or truncated
        if ended:
            batched = copy.deepcopy(batched)
            observation, begin_info = begin(self.env, self._next_seed(0))
            current = self._batched(observation)
            begun = self._all
            self.action_mask = self._mask(current, begin_info)
        terminated, truncated = every if terminated else none, every if truncated else none
        return Stepped(current, batched, rewards, terminated, truncated, every, begun, True, ended, ended, info, mask)

    def _step_next_step(self, action: NDArray[Any]) -> Stepped:
        # An environment that was done is reset by this step: its action is ignored, its reward is 0.
        observation, reward, terminated, truncated, info = self._outcome(action)
        begun, done = self._done, terminated | truncated
        self._done = done
        flags = not begun.any(), bool(done.any()), bool(begun.any())
        self.action_mask = mask = self._mask(observation, info)
        return Stepped(observation, observation, reward, terminated, truncated, ~begun, begun, *flags, info, mask)

    def _step_same_step(self, action: NDArray[Any]) -> Stepped:
        observation, reward, terminated, truncated, info = self._outcome(action)
        done = terminated | truncated
        ended = bool(done.any())
        final = self._with_rows(observation, done, info.get("final_obs"))
        self.action_mask = mask = self._mask(observation, info)
        if ended:
            mask = self.checks.joined(done, self._mask(final, info.get("final_info", {})), mask)
        ends = terminated, truncated
        return Stepped(observation, final, reward, *ends, self._all, done, True, ended, ended, info, mask)

    def _step_disabled(self, action: NDArray[Any]) -> Stepped:
        final, reward, terminated, truncated, info = self._outcome(action)
        done = terminated | truncated
        observation, ended = final, bool(done.any())
        self.action_mask = mask = self._mask(final, info)
        if ended:
            final = copy.deepcopy(final)  # the environment may write the reset observations into the same arrays
            reward, terminated, truncated = reward.copy(), terminated.copy(), truncated.copy()
            seeds: list[int | None] | None = None
            if self._worlds:
                seeds = [self._next_seed(row) if done[row] else None for row in range(self.num_envs)]
            observation, begin_info = begin(self.env, seeds, options={"reset_mask": done.copy()})
            self.action_mask = self.checks.joined(done, self._mask(observation, begin_info), mask)
        ends = terminated, truncated
        return Stepped(observation, final, reward, *ends, self._all, done, True, ended, ended, info, mask)

    def _step_sb3(self, action: NDArray[Any]) -> Stepped:
        observation, reward, done, infos = self._checked_step(action)
        done = truths_of(done, "done", self.num_envs)
        truncated = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos]) & done
        finals = [info.get("terminal_observation") for info in infos]
        final = self._with_rows(observation, done, finals)
        rewards = numbers_of(reward, self.num_envs)
        ended = bool(done.any())
        ends = done & ~truncated, truncated
        self.action_mask = mask = self._mask(final, infos)
        if ended:
            begin_infos = getattr(self.env, "reset_infos", [])  # which SB3's vector environments keep
            self.action_mask = self.checks.joined(done, self._mask(observation, begin_infos), mask)
        info = {"infos": infos}
        return Stepped(observation, final, rewards, *ends, self._all, done, True, ended, ended, info, mask)

    def _with_rows(self, observation: Any, where: Bools, rows: Any) -> Any:
        """The batch with the rows `where` replaced by single observations."""
        if not where.any():
            return observation
        joined = copy.deepcopy(observation)
        for row in np.flatnonzero(where):
            if rows is None or rows[row] is None:
                raise EnvironmentFailure(
                    "an episode ended, and the vector environment did not give its final observation"
                )
            leaves = (flatten(self.observation_space, tree) for tree in (joined, rows[row]))
            for leaf, value in zip(*leaves, strict=True):
                leaf[row] = value
        return joined


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode")
    if mode is None:
        raise TypeError(
            f"{type(env).__name__} does not say how it resets: set env.metadata['autoreset_mode'] to one of "
            "gymnasium.vector.AutoresetMode"
        )
    return AutoresetMode(mode)
