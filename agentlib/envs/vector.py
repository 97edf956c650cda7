"""One way to step any environment: a single one, Gymnasium's vector environments in each autoreset mode, SB3's.

What differs between them is what happens at the end of an episode, and it is here that it is told apart: which
observation is the true last one, which starts a new episode, and which step is no transition at all.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from agentlib.envs.journal import Diverged, Journal, continuation, require_same, retrace
from agentlib.envs.masks import Bools, Masks
from agentlib.envs.spaces import finite_sum, flatten, leaf_shape, leaf_spaces, unflatten


class Stepped(NamedTuple):
    """What one step of n environments gave."""

    observation: Any
    """What to act on next, batched; of a new episode where `begun`."""
    next_observation: Any
    """What this step led to, batched; the true final observation where an episode ended."""
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


class EnvironmentFailure(RuntimeError):
    """An environment failed, or gave something that cannot be learned from."""


def _did(error: Exception) -> str:
    """What an environment did, by what came of it."""
    if isinstance(error, ValueError) and "values to unpack (expected" in str(error):
        return "gave other values than Gymnasium's (observation, reward, terminated, truncated, info)"
    if isinstance(error, KeyError):
        return f"raised, or gave an observation without {error}"
    return "raised"


def _pair(found: Any) -> tuple[Any, dict[str, Any]]:
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise EnvironmentFailure("the environment's reset gave no pair (observation, info)")
    observation, info = found
    return observation, info


class Environments:
    """Steps n environments and resets those that are done.

    After `reset(seed)` each episode of a single environment has a seed of its own, and so has each in a
    `SyncVectorEnv` without autoreset. What was done since is kept, so that `load_state` can play the episodes under way
    again. Other vector environments can only be seeded as a whole: they are played again from their first step, if
    that is not too far back.

    Args:
        env: a `gymnasium.Env`, a `gymnasium.vector.VectorEnv` (any autoreset mode), or an SB3 `VecEnv`.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    action_mask: Bools | None = None
    """`(n, A)`: the actions that are legal now, as the environment's last infos or observations say (see
    `agentlib.envs.masks`); None if they say nothing."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.steps = 0
        if isinstance(env, VectorEnv):
            self.num_envs = int(env.num_envs)
            self.observation_space, self.action_space = env.single_observation_space, env.single_action_space
            self._step = {
                AutoresetMode.NEXT_STEP: self._step_next_step,
                AutoresetMode.SAME_STEP: self._step_same_step,
                AutoresetMode.DISABLED: self._step_disabled,
            }[_autoreset_mode(env)]
        elif isinstance(env, gymnasium.Env):
            self.num_envs = 1
            self.observation_space, self.action_space = env.observation_space, env.action_space
            self._step = self._step_single
        elif all(hasattr(env, name) for name in ("num_envs", "step_wait", "reset", "observation_space")):
            self.num_envs = int(env.num_envs)
            self.observation_space, self.action_space = env.observation_space, env.action_space
            self._step = self._step_sb3
        else:
            raise TypeError(
                f"{type(env).__name__} is no environment: give a gymnasium.Env, a gymnasium.vector.VectorEnv or an "
                "SB3 VecEnv"
            )
        self.masks = Masks(self.observation_space, self.action_space, single=isinstance(env, gymnasium.Env))
        # Of each part: its space, its batched shape, and the dtypes that were found to fit.
        self._leaves: list[tuple[Any, tuple[int, ...], set[np.dtype[Any]]]] = [
            (leaf, (self.num_envs, *leaf_shape(leaf)), {np.dtype(leaf.dtype)})
            for leaf in leaf_spaces(self.observation_space)
        ]
        self._is_leaf = not isinstance(self.observation_space, spaces.Dict | spaces.Tuple)
        self.observation: Any = None
        """What to act on next, batched; None before the first reset."""
        self._worlds: list[gymnasium.Env[Any, Any]] = [env] if isinstance(env, gymnasium.Env) else []
        if type(env) is SyncVectorEnv and _autoreset_mode(env) is AutoresetMode.DISABLED:
            self._worlds = list(env.envs)
        self._goes_on = [continuation(world) for world in self._worlds]
        self._seeds: np.random.Generator | None = None  # draws the seeds of episodes
        self._journal = Journal(lanes=len(self._worlds) or 1)
        self._begun: list[tuple[int, int]] = []  # environments that were reset by this step, and their seeds
        self._done = np.zeros(self.num_envs, dtype=bool)
        self._all = np.ones(self.num_envs, dtype=bool)
        self._none = np.zeros(self.num_envs, dtype=bool)
        self._all.flags.writeable = self._none.flags.writeable = False  # handed out at every step

    def reset(self, seed: int | None = None) -> Any:
        """Resets all environments; returns the batched first observations.

        With a seed, environment i starts with `seed + i`, and later episodes with seeds that follow from it.
        """
        try:
            observation = self._reset_all(seed)
        except KeyError as error:
            raise EnvironmentFailure(f"the environment's reset {_did(error)}") from error
        self._seeds = None if seed is None else np.random.default_rng(seed)
        self._begun.clear()
        for lane in range(len(self._worlds) or 1):
            self._journal.begin(lane, None if seed is None else seed + lane)
        self.observation = observation
        return observation

    def _reset_all(self, seed: int | None) -> Any:
        self._done[:] = False
        if isinstance(self.env, VectorEnv):
            observation, info = _pair(self.env.reset(seed=seed))
        elif isinstance(self.env, gymnasium.Env):
            observation, info = _pair(self.env.reset(seed=seed))
            observation = self._batched(observation)
        else:
            if seed is not None:
                self.env.seed(seed)
            observation, info = self.env.reset(), self._begin_infos()
        self.action_mask = self._mask(observation, info)
        self._refuse_no_choice(self.action_mask)
        self._check_observation(observation)
        return observation

    def _next_seed(self, lane: int) -> int | None:
        """The seed of a new episode; None where the reset is none, and the same game goes on."""
        if self._seeds is None or self._goes_on[lane]():
            return None
        seed = int(self._seeds.integers(2**30))
        self._begun.append((lane, seed))
        return seed

    def step(self, action: NDArray[Any]) -> Stepped:
        """Steps every environment with `action`, batched; resets what is done.

        Raises:
            EnvironmentFailure: the environment raised, gave a reward or an observation with NaN, infinities or another
                shape or type, or an action mask that does not fit or leaves no legal action.
        """
        try:
            stepped = self._step(action)
        except EnvironmentFailure:
            raise
        except Exception as error:
            raise EnvironmentFailure(f"the environment {_did(error)} at step {self.steps + 1}: {error!r}") from error
        if stepped.reward.shape != (self.num_envs,):
            raise EnvironmentFailure(
                f"the environment gave a reward of shape {stepped.reward.shape[1:]} at step {self.steps + 1}: not one "
                "number"
            )
        total = stepped.reward.item() if self.num_envs == 1 else float(stepped.reward.sum())
        if not math.isfinite(total):
            raise EnvironmentFailure(f"the environment gave the reward {stepped.reward} at step {self.steps + 1}")
        self.steps += self.num_envs if stepped.all_valid else int(stepped.valid.sum())
        self._check_observation(stepped.next_observation)
        if self.action_mask is not None or stepped.next_mask is not None:
            self._check_masks(stepped)
        self.observation = stepped.observation
        self._journal.note(action, stepped.reward)
        while self._begun:
            self._journal.begin(*self._begun.pop())
        return stepped

    def _check_observation(self, observation: Any) -> None:
        leaves = [observation] if self._is_leaf else flatten(self.observation_space, observation)
        for leaf, (space, shape, known) in zip(leaves, self._leaves, strict=True):
            if leaf.shape != shape or leaf.dtype not in known:
                if leaf.shape != shape or not np.can_cast(leaf.dtype, np.dtype(space.dtype), "same_kind"):
                    raise EnvironmentFailure(
                        f"the environment gave an observation of shape {leaf.shape[1:]} and dtype {leaf.dtype} at step "
                        f"{self.steps}, which does not fit {space}"
                    )
                known.add(leaf.dtype)
            if leaf.dtype.kind == "f" and not finite_sum(leaf) and not np.isfinite(leaf).all():
                kind = "NaN" if np.isnan(leaf).any() else "infinities"
                raise EnvironmentFailure(f"the environment gave an observation with {kind} at step {self.steps}")

    def _mask(self, observation: Any, info: Any) -> Bools | None:
        try:
            return self.masks.read(observation, info)
        except ValueError as error:
            raise EnvironmentFailure(f"at step {self.steps + 1} the environment gave {error}") from None

    def _check_masks(self, stepped: Stepped) -> None:
        """Refuses masks that leave no legal action where one must be chosen or valued: not once the task has ended."""
        mask, next_mask = self.action_mask, stepped.next_mask
        if next_mask is not None:
            self._refuse_no_choice(next_mask | (stepped.terminated | ~stepped.valid)[:, None])
        if mask is not None:
            if self._done.any():  # the next action is ignored there: any will do
                mask = self.action_mask = mask | self._done[:, None]
            self._refuse_no_choice(mask)

    def _refuse_no_choice(self, mask: Bools | None) -> None:
        row = None if mask is None else self.masks.without_choice(mask)
        if row is not None:
            which = f" (environment {row} of {self.num_envs})" if self.num_envs > 1 else ""
            raise EnvironmentFailure(f"the action mask leaves no legal action after step {self.steps}{which}")

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    # State -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What brings the episodes under way back: their seeds, what was done since, and where that led."""
        if self.observation is None:
            return {"steps": self.steps}
        return {
            "steps": self.steps,
            "seeds": None if self._seeds is None else self._seeds.bit_generator.state,
            "journal": self._journal.state(),
            "observation": [np.array(leaf) for leaf in flatten(self.observation_space, self.observation)],
        }

    def load_state(self, state: dict[str, Any]) -> Any:
        """Plays the episodes under way again; returns the observation to act on next.

        None if there was none, or if the environments do not come to the same rewards and observation as before. In
        that case a warning says so, and they have to be reset.
        """
        self.steps, self.observation = state["steps"], None
        if "journal" not in state:
            return None
        try:
            self._play_again(state)
        except Exception as error:
            told = str(error) if isinstance(error, Diverged) else f"it raised {error!r}"
            warnings.warn(
                f"the environment could not be brought back to where it was: {told}. It starts a new episode, and the "
                "run goes on, but does not equal one that was never stopped",
                stacklevel=2,
            )
            self.observation = None
        return self.observation

    def _play_again(self, state: dict[str, Any]) -> None:
        self._journal.load_state(state["journal"])
        self._begun.clear()
        parts = [self._journal.since(lane) for lane in range(len(self._worlds) or 1)]
        if state["seeds"] is None or any(part is None for part in parts):
            raise Diverged(f"its last reset with a seed was none, or is more than {self._journal.limit:,} steps ago")
        known, seeds = [part for part in parts if part is not None], self._journal.seeds
        before = [np.array(leaf) for leaf in state["observation"]]
        expected = unflatten(self.observation_space, before)
        self._seeds = np.random.default_rng()
        if self._worlds:
            self.env.reset()  # a vector environment then knows of no ended episode
            infos = []
            for row, (actions, rewards) in enumerate(known):
                done = actions[:, row], rewards[:, row]
                observation, info = retrace(self._worlds[row], seeds[row], *done, self._goes_on[row])
                leaves = flatten(self.observation_space, self._batched(observation))
                for leaf, of_all in zip(leaves, before, strict=True):
                    require_same(leaf, of_all[row : row + 1], "observation")
                infos.append(info)
            self.action_mask = self._mask(expected, infos[0] if self.masks.single else infos)
        else:
            observation = self._reset_all(seeds[0])
            for action, reward in zip(*known[0], strict=True):
                stepped = self._step(action)
                require_same(stepped.reward, reward, "reward")
                observation = stepped.observation
            for leaf, of_all in zip(flatten(self.observation_space, observation), before, strict=True):
                require_same(leaf, of_all, "observation")
            if self.action_mask is not None:
                self.action_mask = self.action_mask | self._done[:, None]  # as in `_check_masks`
        self._seeds.bit_generator.state = state["seeds"]
        self.observation = expected

    def _batched(self, observation: Any) -> Any:
        if type(observation) is np.ndarray:
            return observation[None]
        leaves = [np.asarray(leaf)[None] for leaf in flatten(self.observation_space, observation)]
        return unflatten(self.observation_space, leaves)

    def _step_single(self, action: NDArray[Any]) -> Stepped:
        observation, reward, terminated, truncated, info = self.env.step(action[0])
        batched = following = self._batched(observation)
        begun = self._none
        self.action_mask = mask = self._mask(batched, info)
        ended = bool(terminated or truncated)
        if ended:
            observation, begin_info = _pair(self.env.reset(seed=self._next_seed(0)))
            following = self._batched(observation)
            begun = self._all
            self.action_mask = self._mask(following, begin_info)
        rewards = np.array([reward], dtype=np.float64)
        ends = self._all if terminated else self._none, self._all if truncated else self._none
        return Stepped(following, batched, rewards, *ends, self._all, begun, True, ended, ended, info, mask)

    def _step_next_step(self, action: NDArray[Any]) -> Stepped:
        # An environment that was done is reset by this step: its action is ignored, its reward is 0.
        observation, reward, terminated, truncated, info = self.env.step(action)
        begun, done = self._done, terminated | truncated
        self._done = done
        flags = not begun.any(), bool(done.any()), bool(begun.any())
        self.action_mask = mask = self._mask(observation, info)
        return Stepped(observation, observation, reward, terminated, truncated, ~begun, begun, *flags, info, mask)

    def _step_same_step(self, action: NDArray[Any]) -> Stepped:
        observation, reward, terminated, truncated, info = self.env.step(action)
        done = terminated | truncated
        ended = bool(done.any())
        final = self._with_rows(observation, done, info.get("final_obs"))
        self.action_mask = mask = self._mask(observation, info)
        if ended:
            mask = self._joined(done, self._mask(final, info.get("final_info", {})), mask)
        ends = terminated, truncated
        return Stepped(observation, final, reward, *ends, self._all, done, True, ended, ended, info, mask)

    def _step_disabled(self, action: NDArray[Any]) -> Stepped:
        final, reward, terminated, truncated, info = self.env.step(action)
        done = terminated | truncated
        observation, ended = final, bool(done.any())
        self.action_mask = mask = self._mask(final, info)
        if ended:
            final = self._copied(final)  # the environment may write the reset observations into the same arrays
            reward, terminated, truncated = reward.copy(), terminated.copy(), truncated.copy()
            seeds: list[int | None] | None = None
            if self._worlds:
                seeds = [self._next_seed(row) if done[row] else None for row in range(self.num_envs)]
            observation, begin_info = _pair(self.env.reset(seed=seeds, options={"reset_mask": done.copy()}))
            self.action_mask = self._joined(done, self._mask(observation, begin_info), mask)
        ends = terminated, truncated
        return Stepped(observation, final, reward, *ends, self._all, done, True, ended, ended, info, mask)

    def _step_sb3(self, action: NDArray[Any]) -> Stepped:
        observation, reward, done, infos = self.env.step(action)
        done = np.asarray(done, dtype=bool)
        truncated = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos]) & done
        finals = [info.get("terminal_observation") for info in infos]
        final = self._with_rows(observation, done, finals)
        rewards = np.asarray(reward, dtype=np.float64)
        ended = bool(done.any())
        ends = done & ~truncated, truncated
        self.action_mask = mask = self._mask(final, infos)
        if ended:
            self.action_mask = self._joined(done, self._mask(observation, self._begin_infos()), mask)
        info = {"infos": infos}
        return Stepped(observation, final, rewards, *ends, self._all, done, True, ended, ended, info, mask)

    def _begin_infos(self) -> Any:
        """What SB3's vector environments keep of the last resets."""
        return getattr(self.env, "reset_infos", [])

    @staticmethod
    def _joined(where: Bools, first: Bools | None, second: Bools | None) -> Bools | None:
        """Rows of `first` where it says so, of `second` elsewhere; a mask that was not given allows everything."""
        if first is None and second is None:
            return None
        first = np.ones_like(second, dtype=bool) if first is None else first
        second = np.ones_like(first, dtype=bool) if second is None else second
        return np.where(where[:, None], first, second)

    def _copied(self, observation: Any) -> Any:
        leaves = [leaf.copy() for leaf in flatten(self.observation_space, observation)]
        return unflatten(self.observation_space, leaves)

    def _with_rows(self, observation: Any, where: Bools, rows: Any) -> Any:
        """The batch with the rows `where` replaced by single observations."""
        if not where.any():
            return observation
        leaves = [leaf.copy() for leaf in flatten(self.observation_space, observation)]
        for row in np.flatnonzero(where):
            if rows is None or rows[row] is None:
                raise EnvironmentFailure(
                    "an episode ended, and the vector environment did not give its final observation"
                )
            for leaf, value in zip(leaves, flatten(self.observation_space, rows[row]), strict=True):
                leaf[row] = value
        return unflatten(self.observation_space, leaves)


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode")
    if mode is None:
        raise TypeError(
            f"{type(env).__name__} does not say how it resets: set env.metadata['autoreset_mode'] to one of "
            "gymnasium.vector.AutoresetMode"
        )
    return AutoresetMode(mode)
