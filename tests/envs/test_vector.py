"""`Environments`: what it says of each step, written out by hand for every kind of vector environment."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from agentlib.envs.vector import EnvironmentFailure, Environments, Stepped
from tests.experience.scripted import LEAVES, Scripted, encode, leaves

SCRIPTS = [[(2, "truncated"), (3, "terminated")], [(1, "terminated"), (1, "both")]]
"""Environment 0 has episodes of 2 and 3 steps, environment 1 of one step each."""

MODES = {"next step": AutoresetMode.NEXT_STEP, "same step": AutoresetMode.SAME_STEP, "disabled": AutoresetMode.DISABLED}

# Of each step: what to act on next <- what the step led to, as episode.step; and ends: T terminated, U truncated.
# "reset" is a step that only resets, "new" says that the observation to act on begins an episode.
AT_ONCE = [
    ["0.1 <- 0.1", "1.0 <- 0.2 U new", "1.1 <- 1.1", "1.2 <- 1.2", "2.0 <- 1.3 T new", "2.1 <- 2.1"],
    [f"{n + 1}.0 <- {n}.1 {'TU' if n % 2 else 'T'} new" for n in range(6)],
]
NEXT_STEP = [
    ["0.1 <- 0.1", "0.2 <- 0.2 U", "1.0 <- 1.0 reset new", "1.1 <- 1.1", "1.2 <- 1.2", "1.3 <- 1.3 T"],
    [
        *["0.1 <- 0.1 T", "1.0 <- 1.0 reset new", "1.1 <- 1.1 TU"],
        *["2.0 <- 2.0 reset new", "2.1 <- 2.1 T", "3.0 <- 3.0 reset new"],
    ],
]
# SB3 calls an episode truncated only if it did not terminate as well.
SB3 = [[step.replace("TU", "T") for step in steps] for steps in AT_ONCE]
TRUTH = {"single": AT_ONCE, "same step": AT_ONCE, "disabled": AT_ONCE, "next step": NEXT_STEP, "sb3": SB3}


def giving(env: Any) -> Callable[[], Any]:
    return lambda: env


def made(kind: str, space: spaces.Space) -> tuple[Environments, list[Scripted]]:
    scripted = [Scripted(number, script, space) for number, script in enumerate(SCRIPTS)]
    factories = [giving(env) for env in scripted]
    if kind == "single":
        return Environments(scripted[0]), scripted[:1]
    if kind == "sb3":
        return Environments(DummyVecEnv(factories)), scripted
    return Environments(SyncVectorEnv(factories, autoreset_mode=MODES[kind])), scripted


def assert_row(batch: Any, row: int, space: spaces.Space, where: str) -> None:
    """Row `row` of the batch is the observation of that episode and step, in every leaf."""
    episode, t = map(int, where.split("."))
    for leaf, expected in zip(leaves(batch), leaves(encode(space, row, episode, t)), strict=True):
        np.testing.assert_array_equal(leaf[row], expected)


def assert_step(stepped: Stepped, number: int, truth: list[list[str]], space: spaces.Space) -> None:
    for row, steps in enumerate(truth):
        observation, _, next_observation, *words = steps[number].split()
        assert_row(stepped.observation, row, space, observation)
        assert_row(stepped.next_observation, row, space, next_observation)
        assert stepped.terminated[row] == any("T" in word for word in words)
        assert stepped.truncated[row] == any("U" in word for word in words)
        assert stepped.valid[row] == ("reset" not in words)
        assert stepped.begun[row] == ("new" in words)
    assert stepped.all_valid == stepped.valid.all()
    assert stepped.any_ended == (stepped.terminated | stepped.truncated).any()
    assert stepped.any_begun == stepped.begun.any()


@pytest.mark.parametrize("kind", TRUTH)
@pytest.mark.parametrize("name", ["vector", "image", "discrete", "nested"])
def test_each_step_is_given_as_it_was(kind, name):
    space = LEAVES.get(name) or spaces.Dict(a=LEAVES["image"], b=spaces.Tuple([LEAVES["discrete"], LEAVES["bits"]]))
    if kind == "sb3" and name == "nested":
        space = spaces.Dict(a=LEAVES["image"], b=LEAVES["discrete"])  # SB3 has no deeper ones
    envs, scripted = made(kind, space)
    truth = TRUTH[kind][: len(scripted)]
    first = envs.reset(seed=0)
    for row in range(len(scripted)):
        assert_row(first, row, space, "0.0")
    for number in range(6):
        action = np.array([number % 5, (number + 1) % 5][: len(scripted)])
        stepped = envs.step(action)
        assert_step(stepped, number, truth, space)
        for row, env in enumerate(scripted):
            taken = [event for event in env.log if event.action is not None]
            if stepped.valid[row]:
                assert taken[-1].action == action[row]
                assert stepped.reward[row] == taken[-1].reward
            else:
                assert stepped.reward[row] == 0
    assert envs.steps == sum(event.action is not None for env in scripted for event in env.log)


@pytest.mark.parametrize("kind", MODES)
def test_each_step_is_given_as_it_was_in_other_processes(kind):
    space = spaces.Dict(a=LEAVES["image"], b=spaces.Tuple([LEAVES["vector"], LEAVES["bits"]]))
    factories = [lambda n=n: Scripted(n, SCRIPTS[n], space) for n in range(2)]
    envs = Environments(AsyncVectorEnv(factories, autoreset_mode=MODES[kind]))
    try:
        envs.reset(seed=0)
        for number in range(6):
            assert_step(envs.step(np.zeros(2, int)), number, TRUTH[kind], space)
    finally:
        envs.close()


@pytest.mark.parametrize("kind", ["same step", "disabled", "next step"])
def test_a_step_stays_as_it_was_though_the_environment_reuses_its_arrays(kind):
    """With copy=False Gymnasium writes all observations into one array; final ones are kept apart."""
    scripted = [Scripted(number, script) for number, script in enumerate(SCRIPTS)]
    factories = [giving(env) for env in scripted]
    envs = Environments(SyncVectorEnv(factories, copy=False, autoreset_mode=MODES[kind]))
    envs.reset()
    for number in range(6):
        assert_step(envs.step(np.zeros(2, int)), number, TRUTH[kind], LEAVES["vector"])


@pytest.mark.parametrize("kind", TRUTH)
def test_a_reset_in_the_middle_starts_anew(kind):
    """Also where an episode has just ended: the step after the reset is a real one."""
    envs, _ = made(kind, LEAVES["vector"])
    for _ in range(2):
        envs.reset()
        for _ in range(2 if kind == "single" else 1):
            stepped = envs.step(np.zeros(envs.num_envs, int))
        assert (stepped.terminated | stepped.truncated)[-1]
    envs.reset()
    stepped = envs.step(np.zeros(envs.num_envs, int))
    assert stepped.valid.all()
    assert envs.steps == (5 if kind == "single" else 6)


def test_gymnasiums_own_vectorized_environments_are_understood():
    """CartPole as one program over arrays, in its default mode: final states are far out, first ones near 0."""
    envs = Environments(gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point"))
    observation = envs.reset(seed=0)
    ended = 0
    for _ in range(60):
        stepped = envs.step(np.ones(3, int))
        assert (abs(stepped.next_observation[stepped.terminated][:, 2]) > 0.2).all()
        assert (abs(stepped.observation[stepped.begun]) <= 0.05).all()
        assert (abs(observation[~stepped.valid][:, 2]) > 0.2).all()
        ended += stepped.terminated.sum()
        observation = stepped.observation
    assert ended >= 9
    envs.close()


class BadReward(CartPoleEnv):
    """Gives `bad` as its third reward."""

    bad = np.nan

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.count = getattr(self, "count", 0) + 1
        return observation, self.bad if self.count == 3 else reward, *rest


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["single", "vector", "sb3"])
def test_a_reward_that_is_no_number_names_the_step(kind, bad, monkeypatch):
    monkeypatch.setattr(BadReward, "bad", bad)
    made: dict[str, Callable[[], Any]] = {
        "single": BadReward,
        "vector": lambda: SyncVectorEnv([CartPoleEnv, BadReward, CartPoleEnv]),
        "sb3": lambda: DummyVecEnv([BadReward, CartPoleEnv]),
    }
    envs = Environments(made[kind]())
    envs.reset(seed=0)
    for _ in range(2):
        envs.step(np.zeros(envs.num_envs, int))
    step = 2 * envs.num_envs + 1  # steps count over all environments
    with pytest.raises(EnvironmentFailure, match=rf"the environment gave the reward \[.*{bad}.*\] at step {step}"):
        envs.step(np.zeros(envs.num_envs, int))


def test_an_environment_that_raises_names_the_step():
    env = Scripted(0, [(2, "terminated")])
    env.reset()
    envs = Environments(env)
    envs.reset()
    envs.step(np.zeros(1, int))
    env.script = []
    with pytest.raises(EnvironmentFailure, match="the environment raised at step 2: ZeroDivisionError"):
        envs.step(np.zeros(1, int))


def test_a_vector_environment_that_hides_final_observations_is_an_error():
    class Hiding(DummyVecEnv):
        def step_wait(self):
            observation, reward, done, infos = super().step_wait()
            return observation, reward, done, [{} for _ in infos]

    envs = Environments(Hiding([lambda: Scripted(0, [(1, "terminated")])]))
    envs.reset()
    with pytest.raises(EnvironmentFailure, match=r"did not give its final observation"):
        envs.step(np.zeros(1, int))


def test_a_vector_environment_must_say_how_it_resets():
    env = SyncVectorEnv([lambda: Scripted(0, [(1, "terminated")])])
    env.metadata = {}
    with pytest.raises(TypeError, match="SyncVectorEnv does not say how it resets"):
        Environments(env)


@pytest.mark.parametrize("thing", ["CartPole-v1", None, object(), CartPoleEnv])
def test_what_is_no_environment_is_refused(thing):
    with pytest.raises(TypeError, match=r"is no environment: give a gymnasium\.Env"):
        Environments(thing)


@pytest.mark.parametrize("kind", ["ale_py", "envpool"])
def test_vector_environments_of_others(kind):
    """ALE's own, and EnvPool's: what is stepped while one is reset is no transition."""
    module = pytest.importorskip(kind)
    if kind == "ale_py":
        gymnasium.register_envs(module)
        make = partial(gymnasium.make_vec, "ALE/Breakout-v5", vectorization_mode="vector_entry_point")
        env, action = make(num_envs=2, max_num_frames_per_episode=60), 0
    else:
        env, action = module.make("CartPole-v1", env_type="gymnasium", num_envs=2, seed=0), 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EnvPool is seeded when it is made
        envs = Environments(env)
        first = envs.reset(seed=0)
    assert len(first) == 2
    stepped = [envs.step(np.full(2, action)) for _ in range(40)]
    ended = np.array([one.terminated | one.truncated for one in stepped])
    assert ended.any(axis=0).all()
    np.testing.assert_array_equal(np.array([one.valid for one in stepped])[1:], ~ended[:-1])
    env.close()
